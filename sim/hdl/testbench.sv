// The accelerator with its memory: everything but clock, reset and registers is HDL, so it runs at simulator speed.
// With +trace=FILE each line of FILE is a cycle in which a command begins or ends or the sequencer's state changes.
// Macros: ACCELERATOR (module name), DATA_WIDTH, ADDR_WIDTH; parameter BYTES (size of the memory).

`default_nettype none
`timescale 1ns / 1ps

module testbench #(
    parameter BYTES = 1 << 20
) (
    input  wire        clk /* verilator public_flat_rw */,
    input  wire        rst /* verilator public_flat_rw */,
    output wire        irq /* verilator public_flat_rw */,

    input  wire        dump /* verilator public_flat_rw */,
    input  wire        fill /* verilator public_flat_rw */,
    input  wire [31:0] dump_first /* verilator public_flat_rw */,
    input  wire [31:0] dump_beats /* verilator public_flat_rw */,

    input  wire [9:0]  s_axil_awaddr /* verilator public_flat_rw */,
    input  wire [2:0]  s_axil_awprot /* verilator public_flat_rw */,
    input  wire        s_axil_awvalid /* verilator public_flat_rw */,
    output wire        s_axil_awready /* verilator public_flat_rw */,
    input  wire [31:0] s_axil_wdata /* verilator public_flat_rw */,
    input  wire [3:0]  s_axil_wstrb /* verilator public_flat_rw */,
    input  wire        s_axil_wvalid /* verilator public_flat_rw */,
    output wire        s_axil_wready /* verilator public_flat_rw */,
    output wire [1:0]  s_axil_bresp /* verilator public_flat_rw */,
    output wire        s_axil_bvalid /* verilator public_flat_rw */,
    input  wire        s_axil_bready /* verilator public_flat_rw */,
    input  wire [9:0]  s_axil_araddr /* verilator public_flat_rw */,
    input  wire [2:0]  s_axil_arprot /* verilator public_flat_rw */,
    input  wire        s_axil_arvalid /* verilator public_flat_rw */,
    output wire        s_axil_arready /* verilator public_flat_rw */,
    output wire [31:0] s_axil_rdata /* verilator public_flat_rw */,
    output wire [1:0]  s_axil_rresp /* verilator public_flat_rw */,
    output wire        s_axil_rvalid /* verilator public_flat_rw */,
    input  wire        s_axil_rready /* verilator public_flat_rw */
);
    wire [`ADDR_WIDTH-1:0]   araddr, awaddr;
    wire [7:0]               arlen, awlen;
    wire                     arvalid, arready, rvalid, rready, rlast;
    wire                     awvalid, awready, wvalid, wready, wlast, bvalid, bready;
    wire [`DATA_WIDTH-1:0]   rdata, wdata;
    wire [`DATA_WIDTH/8-1:0] wstrb;
    wire [1:0]               rresp, bresp;
    wire [2:0]               trace_state;
    wire [31:0]              trace_address;
    wire [4:0]               trace_begin, trace_done;

    /* verilator lint_off PINMISSING */
    `ACCELERATOR accelerator (
        .clk(clk), .rst(rst), .irq(irq),
        .trace_busy(trace_state[2]), .trace_command(trace_state[1]), .trace_waiting(trace_state[0]),
        .trace_address(trace_address), .trace_begin(trace_begin), .trace_done(trace_done),
        .s_axil_awaddr(s_axil_awaddr), .s_axil_awprot(s_axil_awprot), .s_axil_awvalid(s_axil_awvalid),
        .s_axil_awready(s_axil_awready), .s_axil_wdata(s_axil_wdata), .s_axil_wstrb(s_axil_wstrb),
        .s_axil_wvalid(s_axil_wvalid), .s_axil_wready(s_axil_wready), .s_axil_bresp(s_axil_bresp),
        .s_axil_bvalid(s_axil_bvalid), .s_axil_bready(s_axil_bready), .s_axil_araddr(s_axil_araddr),
        .s_axil_arprot(s_axil_arprot), .s_axil_arvalid(s_axil_arvalid), .s_axil_arready(s_axil_arready),
        .s_axil_rdata(s_axil_rdata), .s_axil_rresp(s_axil_rresp), .s_axil_rvalid(s_axil_rvalid),
        .s_axil_rready(s_axil_rready),
        .m_axi_araddr(araddr), .m_axi_arlen(arlen), .m_axi_arvalid(arvalid), .m_axi_arready(arready),
        .m_axi_rdata(rdata), .m_axi_rresp(rresp), .m_axi_rlast(rlast), .m_axi_rvalid(rvalid), .m_axi_rready(rready),
        .m_axi_rid(1'b0), .m_axi_bid(1'b0),
        .m_axi_awaddr(awaddr), .m_axi_awlen(awlen), .m_axi_awvalid(awvalid), .m_axi_awready(awready),
        .m_axi_wdata(wdata), .m_axi_wstrb(wstrb), .m_axi_wlast(wlast), .m_axi_wvalid(wvalid), .m_axi_wready(wready),
        .m_axi_bresp(bresp), .m_axi_bvalid(bvalid), .m_axi_bready(bready)
    );
    /* verilator lint_on PINMISSING */

    axi_memory #(.DATA_WIDTH(`DATA_WIDTH), .ADDR_WIDTH(`ADDR_WIDTH), .BYTES(BYTES)) memory (
        .clk(clk), .rst(rst), .dump(dump), .fill(fill), .dump_first(dump_first), .dump_beats(dump_beats),
        .s_axi_araddr(araddr), .s_axi_arlen(arlen), .s_axi_arvalid(arvalid), .s_axi_arready(arready),
        .s_axi_rdata(rdata), .s_axi_rresp(rresp), .s_axi_rlast(rlast), .s_axi_rvalid(rvalid), .s_axi_rready(rready),
        .s_axi_awaddr(awaddr), .s_axi_awlen(awlen), .s_axi_awvalid(awvalid), .s_axi_awready(awready),
        .s_axi_wdata(wdata), .s_axi_wstrb(wstrb), .s_axi_wlast(wlast), .s_axi_wvalid(wvalid), .s_axi_wready(wready),
        .s_axi_bresp(bresp), .s_axi_bvalid(bvalid), .s_axi_bready(bready)
    );

    reg [8*1024-1:0] trace_name;
    reg [63:0] trace_cycle = 0;
    reg [2:0] trace_before = 0;
    integer trace_file = 0;

    initial if ($value$plusargs("trace=%s", trace_name)) begin
        trace_file = $fopen(trace_name, "w");
        if (trace_file == 0)
            $fatal(1, "testbench: cannot open %0s", trace_name);
    end

    always @(posedge clk) if (trace_file != 0) begin
        trace_cycle <= trace_cycle + 1;
        trace_before <= trace_state;
        if (trace_state != trace_before || trace_begin != 0 || trace_done != 0)
            $fdisplay(trace_file, "%0d %h %h %h %h", trace_cycle, trace_state, trace_begin, trace_done, trace_address);
        if (trace_before[2] && !trace_state[2])
            $fflush(trace_file);
    end
endmodule

`default_nettype wire
