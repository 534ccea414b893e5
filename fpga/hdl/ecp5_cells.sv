// Models of the two ECP5 cells that Yosys has as black boxes only, in the modes that are in use here. Any other mode
// ends the simulation with $fatal.
//
// Sources: Yosys' own mapping (techlibs/lattice/brams_map_16kd.v, dsp_map_18x18.v) for pins, byte enables, the places of
// narrow ports' bits and the form of INITVAL; it follows Lattice FPGA-TN-02204, ECP5 and ECP5-5G Memory Usage Guide, by
// which what is read while it is written is unknown. The multiplier's registers are those of FPGA-TN-02205, sysDSP Usage
// Guide; that of the pipeline is not used by anything here.

`default_nettype none

// Block RAM of 18 Kibit on one clock; port A writes or reads, port B reads. Bits that port B reads while port A writes
// them come out inverted: the guide leaves them open.
module DP16KD (
    input wire DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3,
        DIA2, DIA1, DIA0,
    input wire ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
    input wire CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
    output wire DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4,
        DOA3, DOA2, DOA1, DOA0,
    input wire DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3,
        DIB2, DIB1, DIB0,
    input wire ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
    input wire CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
    output wire DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4,
        DOB3, DOB2, DOB1, DOB0
);
    parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18;
    parameter REGMODE_A = "NOREG", REGMODE_B = "NOREG";
    parameter WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL";
    parameter CLKAMUX = "CLKA", CLKBMUX = "CLKB";
    parameter CSDECODE_A = "0b000", CSDECODE_B = "0b000";
    parameter RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC", GSR = "DISABLED";
    parameter [319:0] INITVAL_00 = 0, INITVAL_01 = 0, INITVAL_02 = 0, INITVAL_03 = 0, INITVAL_04 = 0;
    parameter [319:0] INITVAL_05 = 0, INITVAL_06 = 0, INITVAL_07 = 0, INITVAL_08 = 0, INITVAL_09 = 0;
    parameter [319:0] INITVAL_0A = 0, INITVAL_0B = 0, INITVAL_0C = 0, INITVAL_0D = 0, INITVAL_0E = 0;
    parameter [319:0] INITVAL_0F = 0, INITVAL_10 = 0, INITVAL_11 = 0, INITVAL_12 = 0, INITVAL_13 = 0;
    parameter [319:0] INITVAL_14 = 0, INITVAL_15 = 0, INITVAL_16 = 0, INITVAL_17 = 0, INITVAL_18 = 0;
    parameter [319:0] INITVAL_19 = 0, INITVAL_1A = 0, INITVAL_1B = 0, INITVAL_1C = 0, INITVAL_1D = 0;
    parameter [319:0] INITVAL_1E = 0, INITVAL_1F = 0, INITVAL_20 = 0, INITVAL_21 = 0, INITVAL_22 = 0;
    parameter [319:0] INITVAL_23 = 0, INITVAL_24 = 0, INITVAL_25 = 0, INITVAL_26 = 0, INITVAL_27 = 0;
    parameter [319:0] INITVAL_28 = 0, INITVAL_29 = 0, INITVAL_2A = 0, INITVAL_2B = 0, INITVAL_2C = 0;
    parameter [319:0] INITVAL_2D = 0, INITVAL_2E = 0, INITVAL_2F = 0, INITVAL_30 = 0, INITVAL_31 = 0;
    parameter [319:0] INITVAL_32 = 0, INITVAL_33 = 0, INITVAL_34 = 0, INITVAL_35 = 0, INITVAL_36 = 0;
    parameter [319:0] INITVAL_37 = 0, INITVAL_38 = 0, INITVAL_39 = 0, INITVAL_3A = 0, INITVAL_3B = 0;
    parameter [319:0] INITVAL_3C = 0, INITVAL_3D = 0, INITVAL_3E = 0, INITVAL_3F = 0;

    localparam [64*320-1:0] INIT = {
        INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C, INITVAL_3B, INITVAL_3A, INITVAL_39, INITVAL_38,
        INITVAL_37, INITVAL_36, INITVAL_35, INITVAL_34, INITVAL_33, INITVAL_32, INITVAL_31, INITVAL_30,
        INITVAL_2F, INITVAL_2E, INITVAL_2D, INITVAL_2C, INITVAL_2B, INITVAL_2A, INITVAL_29, INITVAL_28,
        INITVAL_27, INITVAL_26, INITVAL_25, INITVAL_24, INITVAL_23, INITVAL_22, INITVAL_21, INITVAL_20,
        INITVAL_1F, INITVAL_1E, INITVAL_1D, INITVAL_1C, INITVAL_1B, INITVAL_1A, INITVAL_19, INITVAL_18,
        INITVAL_17, INITVAL_16, INITVAL_15, INITVAL_14, INITVAL_13, INITVAL_12, INITVAL_11, INITVAL_10,
        INITVAL_0F, INITVAL_0E, INITVAL_0D, INITVAL_0C, INITVAL_0B, INITVAL_0A, INITVAL_09, INITVAL_08,
        INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04, INITVAL_03, INITVAL_02, INITVAL_01, INITVAL_00
    };
    reg [17:0] memory [0:1023];
    integer at;
    initial begin
        for (at = 0; at < 1024; at = at + 1) memory[at] = INIT[20*at +: 18];
        check_port(DATA_WIDTH_A, REGMODE_A);
        check_port(DATA_WIDTH_B, REGMODE_B);
        if (CLKAMUX != "CLKA" || CLKBMUX != "CLKB") $fatal(1, "DP16KD: an inverted clock");
        if (CSDECODE_A != "0b000" || CSDECODE_B != "0b000") $fatal(1, "DP16KD: CSDECODE is not 0b000");
        if (WRITEMODE_A != "NORMAL" && WRITEMODE_A != "WRITETHROUGH" && WRITEMODE_A != "READBEFOREWRITE")
            $fatal(1, "DP16KD: WRITEMODE_A is none of the three");
    end

    task check_port(input integer width, input [8*6-1:0] regmode);
        begin
            if (width != 1 && width != 2 && width != 4 && width != 9 && width != 18 && width != 36)
                $fatal(1, "DP16KD: a port of %0d bits", width);
            if (regmode != "NOREG" && regmode != "OUTREG") $fatal(1, "DP16KD: REGMODE is none of the two");
        end
    endtask

    wire [13:0] address_a = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
    wire [13:0] address_b = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};
    wire [17:0] in_a = {DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5,
        DIA4, DIA3, DIA2, DIA1, DIA0};
    wire [17:0] in_b = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5,
        DIB4, DIB3, DIB2, DIB1, DIB0};

    // First bit of a port's data in its pair of words.
    function [5:0] place(input integer width, input [4:0] low);
        case (width)
            36: place = 0;
            18: place = 18 * low[4];
            9: place = 9 * low[4:3];
            4: place = 9 * low[4:3] + 4 * low[2];
            2: place = 9 * low[4:3] + 2 * low[2:1];
            default: place = 9 * low[4:3] + low[2:0];
        endcase
    endfunction

    // Bits of the pair of words that a write changes. The low address pins of wide ports are byte enables.
    function [35:0] mask(input integer width, input [4:0] low);
        case (width)
            36: mask = {{9{low[3]}}, {9{low[2]}}, {9{low[1]}}, {9{low[0]}}};
            18: mask = {18'd0, {9{low[1]}}, {9{low[0]}}} << place(18, low);
            default: mask = ((36'd1 << width) - 36'd1) << place(width, low);
        endcase
    endfunction

    function [35:0] picked(input integer width, input [35:0] pair, input [4:0] low);
        picked = (pair >> place(width, low)) & ((37'd1 << width) - 37'd1);
    endfunction

    wire clk = CLKA | CLKB;
    wire enable_a = CEA & ~(CSA2 | CSA1 | CSA0), enable_b = CEB & ~(CSB2 | CSB1 | CSB0);
    wire write = enable_a & WEA;
    wire [8:0] pair_a = address_a[13:5], pair_b = address_b[13:5];
    wire [35:0] old_a = {memory[{pair_a, 1'b1}], memory[{pair_a, 1'b0}]};
    wire [35:0] old_b = {memory[{pair_b, 1'b1}], memory[{pair_b, 1'b0}]};
    wire [35:0] changed = write ? mask(DATA_WIDTH_A, address_a[4:0]) : 36'd0;
    wire [35:0] data = (DATA_WIDTH_A == 36 ? {in_b, in_a} : {18'd0, in_a}) << place(DATA_WIDTH_A, address_a[4:0]);
    wire [35:0] now = old_a & ~changed | data & changed;
    wire [35:0] seen = old_b ^ (pair_a == pair_b ? changed : 36'd0);

    reg [35:0] latch_a = 0, latch_b = 0, output_a = 0, output_b = 0;
    always @(posedge clk) begin
        if (enable_a && !CLKA || enable_b && !CLKB) $fatal(1, "DP16KD: the ports have different clocks");
        if (enable_b && WEB) $fatal(1, "DP16KD: port B writes");
        if (RSTA && (RESETMODE != "SYNC" || REGMODE_A != "NOREG") ||
            RSTB && (RESETMODE != "SYNC" || REGMODE_B != "NOREG"))
            $fatal(1, "DP16KD: a reset that is asynchronous, or that of an output register");
        if (write) begin
            memory[{pair_a, 1'b1}] <= now[35:18];
            memory[{pair_a, 1'b0}] <= now[17:0];
        end
        if (RSTA) latch_a <= 0;
        else if (write) begin  // beside its own write a narrow port shows nothing of use
            if (WRITEMODE_A == "WRITETHROUGH") latch_a <= picked(DATA_WIDTH_A, now, address_a[4:0]);
            if (WRITEMODE_A == "READBEFOREWRITE")
                latch_a <= picked(DATA_WIDTH_A, DATA_WIDTH_A == 9 || DATA_WIDTH_A == 18 ? old_a : ~old_a,
                                  address_a[4:0]);
        end else if (enable_a) latch_a <= picked(DATA_WIDTH_A, old_a, address_a[4:0]);
        if (RSTB) latch_b <= 0;
        else if (enable_b) latch_b <= picked(DATA_WIDTH_B, seen, address_b[4:0]);
        if (OCEA) output_a <= latch_a;
        if (OCEB) output_b <= latch_b;
    end

    wire [35:0] out_a = REGMODE_A == "OUTREG" ? output_a : latch_a;
    wire [35:0] out_b = REGMODE_B == "OUTREG" ? output_b : latch_b;

    assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3,
        DOA2, DOA1, DOA0} = DATA_WIDTH_B == 36 ? out_b[17:0] : out_a[17:0];
    assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3,
        DOB2, DOB1, DOB0} = DATA_WIDTH_B == 36 ? out_b[35:18] : out_b[17:0];
endmodule

// Multiplier of 18 x 18 bits with its registers: A and B, product, output. All its registers are on CLK0, CE0 and RST0.
module MULT18X18D (
    input wire A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
    input wire B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
    input wire C17, C16, C15, C14, C13, C12, C11, C10, C9, C8, C7, C6, C5, C4, C3, C2, C1, C0,
    input wire SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
    input wire CLK3, CLK2, CLK1, CLK0, CE3, CE2, CE1, CE0, RST3, RST2, RST1, RST0,
    input wire SRIA17, SRIA16, SRIA15, SRIA14, SRIA13, SRIA12, SRIA11, SRIA10, SRIA9, SRIA8, SRIA7, SRIA6,
        SRIA5, SRIA4, SRIA3, SRIA2, SRIA1, SRIA0,
    input wire SRIB17, SRIB16, SRIB15, SRIB14, SRIB13, SRIB12, SRIB11, SRIB10, SRIB9, SRIB8, SRIB7, SRIB6,
        SRIB5, SRIB4, SRIB3, SRIB2, SRIB1, SRIB0,
    output wire P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17,
        P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0,
    output wire SIGNEDP
);
    parameter REG_INPUTA_CLK = "NONE", REG_INPUTA_CE = "CE0", REG_INPUTA_RST = "RST0";
    parameter REG_INPUTB_CLK = "NONE", REG_INPUTB_CE = "CE0", REG_INPUTB_RST = "RST0";
    parameter REG_INPUTC_CLK = "NONE", REG_INPUTC_CE = "CE0", REG_INPUTC_RST = "RST0";
    parameter REG_PIPELINE_CLK = "NONE", REG_PIPELINE_CE = "CE0", REG_PIPELINE_RST = "RST0";
    parameter REG_OUTPUT_CLK = "NONE", REG_OUTPUT_CE = "CE0", REG_OUTPUT_RST = "RST0";
    parameter CLK0_DIV = "ENABLED", CLK1_DIV = "ENABLED", CLK2_DIV = "ENABLED", CLK3_DIV = "ENABLED";
    parameter HIGHSPEED_CLK = "NONE", GSR = "DISABLED", CAS_MATCH_REG = "FALSE", SOURCEB_MODE = "B_SHIFT";
    parameter MULT_BYPASS = "DISABLED", RESETMODE = "SYNC";

    task check_register(input [8*4-1:0] clock, input [8*3-1:0] enable, input [8*4-1:0] reset);
        if (clock != "NONE" && (clock != "CLK0" || enable != "CE0" || reset != "RST0"))
            $fatal(1, "MULT18X18D: a register that is not on CLK0, CE0 and RST0");
    endtask
    initial begin
        check_register(REG_INPUTA_CLK, REG_INPUTA_CE, REG_INPUTA_RST);
        check_register(REG_INPUTB_CLK, REG_INPUTB_CE, REG_INPUTB_RST);
        check_register(REG_PIPELINE_CLK, REG_PIPELINE_CE, REG_PIPELINE_RST);
        check_register(REG_OUTPUT_CLK, REG_OUTPUT_CE, REG_OUTPUT_RST);
        if (REG_INPUTC_CLK != "NONE") $fatal(1, "MULT18X18D: a register of C");
        if (CLK0_DIV != "ENABLED" || HIGHSPEED_CLK != "NONE" || CAS_MATCH_REG != "FALSE" || SOURCEB_MODE != "B_SHIFT" ||
            MULT_BYPASS != "DISABLED" || RESETMODE != "SYNC")
            $fatal(1, "MULT18X18D: a mode without a model");
    end

    wire [17:0] a = {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
    wire [17:0] b = {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
    reg [17:0] a_held = 0, b_held = 0;
    reg [35:0] product_held = 0, output_held = 0;
    reg [1:0] signs;
    reg started = 0;
    wire [17:0] a_in = REG_INPUTA_CLK == "NONE" ? a : a_held, b_in = REG_INPUTB_CLK == "NONE" ? b : b_held;
    wire signed [35:0] a_wide = {{18{SIGNEDA & a_in[17]}}, a_in}, b_wide = {{18{SIGNEDB & b_in[17]}}, b_in};
    wire [35:0] product = a_wide * b_wide;
    wire [35:0] stage = REG_PIPELINE_CLK == "NONE" ? product : product_held;
    always @(posedge CLK0) begin
        started <= 1;
        signs <= {SIGNEDA, SIGNEDB};
        if (started && signs != {SIGNEDA, SIGNEDB}) $fatal(1, "MULT18X18D: SIGNEDA or SIGNEDB changes");
        if (RST0) begin
            a_held <= 0;
            b_held <= 0;
            product_held <= 0;
            output_held <= 0;
        end else if (CE0) begin
            a_held <= a;
            b_held <= b;
            product_held <= product;
            output_held <= stage;
        end
    end
    always @* if (SOURCEA || SOURCEB) $fatal(1, "MULT18X18D: operands from the shift chain");

    assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16,
        P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} = REG_OUTPUT_CLK == "NONE" ? stage
        : output_held;
    assign SIGNEDP = SIGNEDA | SIGNEDB;
endmodule

`default_nettype wire
