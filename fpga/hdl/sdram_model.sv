// Behavioural SDR SDRAM for simulation (Verilator and Icarus -g2012): 16 bits, 4 banks, strict.
//
// Everything that the data sheets forbid, and everything that this model does not do, prints a line
// "SDRAM VIOLATION in cycle <n>: <what>" and ends the simulation with $fatal. Checked: the pause after power-up with DQM
// and CKE high and no command; all banks precharged and INIT_REFRESHES refreshes before the mode register is followed by
// ACTIVE; the mode register's fields and its CAS latency against the clock; tRCD, tRP, tRAS (both ends), tRC, tRFC, tRRD,
// tWR and tMRD (two cycles at least); state of the bank; refresh: no more than POSTPONED intervals late, and REFRESH_ROWS
// of them in any time REFRESH_NS; both sides driving DQ; write data not driven; unknown pins.
// Not done, hence violations: bursts cut short by other commands, auto precharge, burst terminate, power-down, self
// refresh, full-page and interleaved bursts, single writes.
//
// Contents at time 0: noise. Where a refresh is late, +sdram_decays prints "SDRAM DECAY in cycle <n>" and makes all
// contents noise anew, and the simulation goes on.
//
// `restart` is the controller's reset, until its commands in flight are over (four cycles): the data sheets' start then
// comes anew, pause included, and contents become noise, as rows stay open and refreshes stay out for longer than allowed.
//
// Time is counted in cycles of CLOCK picoseconds; all other times but REFRESH_NS are in picoseconds. POWER_UP may be
// shortened to save simulation: it is then not the part's. Read data is on the pins for one cycle, from ACCESS half cycles
// after the clock edge that comes one before the CAS latency (0: as if nothing were late; 1: about t_ac and the FPGA's
// delays at 100 MHz); noise is there in all other cycles.

`default_nettype none
`timescale 1ns / 1ps

module sdram_model #(
    parameter ROW_BITS = 13,
    parameter COLUMN_BITS = 9,
    parameter CLOCK = 10000,
    parameter POWER_UP = 200000000,
    parameter T_RCD = 21000,
    parameter T_RP = 21000,
    parameter T_RAS = 42000,
    parameter T_RAS_MAX = 100000000,
    parameter T_RC = 63000,
    parameter T_RFC = 63000,
    parameter T_RRD = 14000,
    parameter T_WR = 14000,
    parameter T_MRD = 14000,
    parameter T_CK_CL2 = 10000,
    parameter T_CK_CL3 = 7000,
    parameter REFRESH_NS = 64000000,
    parameter REFRESH_ROWS = 8192,
    parameter POSTPONED = 8,
    parameter INIT_REFRESHES = 8,
    parameter ACCESS = 1
) (
    input  wire        clk,
    input  wire        restart,
    input  wire        cke,
    input  wire        cs_n,
    input  wire        ras_n,
    input  wire        cas_n,
    input  wire        we_n,
    input  wire [1:0]  ba,
    input  wire [12:0] a,
    input  wire [1:0]  dqm,
    input  wire [15:0] dq_in,
    input  wire        dq_in_enable,
    output wire [15:0] dq_out,
    output wire        dq_out_enable
);
    localparam WORDS = 4 << (ROW_BITS + COLUMN_BITS);
    localparam signed [63:0] LONG_AGO = -64'sd1000000000000;
    localparam signed [63:0] REFRESH = 64'sd1000 * REFRESH_NS;
    localparam signed [63:0] LATEST = (POSTPONED + 1) * (REFRESH / REFRESH_ROWS);

    reg [15:0] mem [0:WORDS-1] /* verilator public_flat_rw */;

    integer i;
    reg decays;
    initial begin
        decays = $test$plusargs("sdram_decays") != 0;
        for (i = 0; i < WORDS; i = i + 1)
            mem[i] = i[15:0] * 16'h9e37 ^ i[25:10];
    end

    // State

    reg signed [63:0] now = 0, started = 0;
    reg [3:0] opened = 0;
    reg [ROW_BITS-1:0] row [0:3];
    reg signed [63:0] activated [0:3], precharged [0:3], written [0:3];
    reg signed [63:0] last_active = LONG_AGO, last_refresh = LONG_AGO, last_mode = LONG_AGO, last_precharge = LONG_AGO;
    reg signed [63:0] intact_since = 0;    // since when lateness counts: the last REFRESH, or the loss of contents
    reg all_closed = 0, mode_set = 0;
    reg [31:0] refreshes = 0;
    reg [3:0] burst = 0;             // of the mode register, words
    reg [2:0] latency = 0;
    reg signed [63:0] rows_refreshed [0:REFRESH_ROWS-1];

    reg reading = 0, writing = 0;    // a burst goes on after this cycle
    reg [3:0] word;
    reg [1:0] bank;
    reg [COLUMN_BITS-1:0] column;
    reg signed [63:0] read_start = LONG_AGO;

    task forget_banks;
        for (i = 0; i < 4; i = i + 1) begin
            activated[i] = LONG_AGO;
            precharged[i] = LONG_AGO;
            written[i] = LONG_AGO;
        end
    endtask
    initial forget_banks;

    task violation(input [8*72-1:0] what);
        begin
            $display("SDRAM VIOLATION in cycle %0d: %0s", now, what);
            $fatal(1, "SDRAM VIOLATION");
        end
    endtask

    task lose_contents;
        for (i = 0; i < WORDS; i = i + 1)
            mem[i] = ~mem[i] * 16'h6b43 ^ i[25:10];
    endtask

    task late(input [8*72-1:0] what);
        if (decays) begin
            $display("SDRAM DECAY in cycle %0d: %0s", now, what);
            lose_contents;
            intact_since = now;
            for (i = 0; i < REFRESH_ROWS; i = i + 1)
                rows_refreshed[i] = now;
        end else
            violation(what);
    endtask

    task do_restart;
        begin
            if (initialised) lose_contents;
            opened = 0;
            all_closed = 0;
            mode_set = 0;
            refreshes = 0;
            reading = 0;
            writing = 0;
            last_active = LONG_AGO;
            last_refresh = LONG_AGO;
            last_mode = LONG_AGO;
            last_precharge = LONG_AGO;
            read_start = LONG_AGO;
            forget_banks;
            started = now + 1;
        end
    endtask

    // Whether less than so many ps (and less than two cycles, where `two` is set) went by since that cycle
    function early(input signed [63:0] since, input signed [63:0] ps, input two);
        early = (now - since) * CLOCK < ps || (two && now - since < 2);
    endfunction

    wire [2:0] code = {ras_n, cas_n, we_n};
    wire idle = cs_n || code == 3'b111;
    localparam MODE = 3'b000, REFRESH_ALL = 3'b001, PRECHARGE = 3'b010, ACTIVE = 3'b011, WRITE = 3'b100, READ = 3'b101;
    wire initialised = mode_set && refreshes >= INIT_REFRESHES;

    task check_quiet;    // for commands to all banks
        begin
            if (opened != 0) violation("a bank is open");
            if (early(last_precharge, T_RP, 0)) violation("tRP");
        end
    endtask

    task check_precharge(input [1:0] which);
        if (opened[which]) begin
            if (early(activated[which], T_RAS, 0)) violation("tRAS");
            if (early(written[which], T_WR, 1)) violation("tWR");
            if (bank == which && now <= read_start + $signed({1'b0, burst}) - $signed({1'b0, latency})) violation("PRECHARGE cuts a read burst short");
            opened[which] = 0;
            precharged[which] = now;
            last_precharge = now;
        end
    endtask

    task do_mode;
        begin
            check_quiet;
            if (!all_closed) violation("mode register before PRECHARGE of all banks");
            if (a[2:0] > 3) violation("mode register: burst length not 1, 2, 4 or 8");
            if (a[3]) violation("mode register: interleaved bursts are not modelled");
            if (a[6:4] != 2 && a[6:4] != 3) violation("mode register: CAS latency not 2 or 3");
            if (a[6:4] == 2 && CLOCK < T_CK_CL2) violation("mode register: clock too fast for CAS latency 2");
            if (a[6:4] == 3 && CLOCK < T_CK_CL3) violation("mode register: clock too fast for CAS latency 3");
            if (a[12:7] != 0 || ba != 0) violation("mode register: reserved bits, or single writes");
            burst = 4'd1 << a[1:0];
            latency = a[6:4];
            mode_set = 1;
            last_mode = now;
        end
    endtask

    task do_refresh;
        begin
            check_quiet;
            if (!all_closed) violation("REFRESH before PRECHARGE of all banks");
            if (early(last_active, T_RC, 0)) violation("tRC before REFRESH");
            if (refreshes == 0)
                for (i = 0; i < REFRESH_ROWS; i = i + 1)
                    rows_refreshed[i] = now;
            rows_refreshed[refreshes % REFRESH_ROWS] = now;
            refreshes = refreshes + 1;
            last_refresh = now;
            intact_since = now;
        end
    endtask

    task do_active;
        begin
            if (!initialised) violation("ACTIVE before the end of initialisation");
            if (opened[ba]) violation("ACTIVE in an open bank");
            if (early(precharged[ba], T_RP, 0)) violation("tRP");
            if (early(activated[ba], T_RC, 0)) violation("tRC");
            if (early(last_active, T_RRD, 0)) violation("tRRD");
            if (a >> ROW_BITS != 0) violation("row outside the part");
            opened[ba] = 1;
            row[ba] = a[ROW_BITS-1:0];
            activated[ba] = now;
            last_active = now;
        end
    endtask

    task do_column;
        begin
            if (!opened[ba]) violation("READ or WRITE in a closed bank");
            if (early(activated[ba], T_RCD, 0)) violation("tRCD");
            if (reading || writing) violation("READ or WRITE inside a burst");
            if (a[10]) violation("auto precharge is not modelled");
            if ((a & 13'h0bff) >> COLUMN_BITS != 0) violation("column outside the part");
            bank = ba;
            column = a[COLUMN_BITS-1:0];
            word = 0;
            reading = code == READ;
            writing = code == WRITE;
            if (reading) read_start = now;
        end
    endtask

    // Words: where the burst is, in blocks of its length

    wire [COLUMN_BITS-1:0] wrap = burst - 1;
    reg [ROW_BITS+COLUMN_BITS+1:0] place;
    reg [15:0] words [0:3];          // read, on their way to the pins
    reg [3:0] on_way = 0;
    reg [1:0] dqm_before = 0, mask = 0;
    reg [15:0] noise = 16'hace1;

    always @(posedge clk) if (restart) begin
        do_restart;
        on_way <= 0;
        now = now + 1;
    end else begin
        if ((^{cke, cs_n, ras_n, cas_n, we_n, dqm, dq_in_enable}) === 1'bx) violation("a pin is unknown");
        if (!cke) violation("CKE low is not modelled");
        if (!idle && (^{a, ba}) === 1'bx) violation("an address pin is unknown");
        noise = {noise[14:0], noise[15] ^ noise[13] ^ noise[12] ^ noise[10]};

        if (!all_closed && dqm != 2'b11) violation("DQM low before the first PRECHARGE");
        if (!idle) begin
            if ((now - started) * CLOCK < POWER_UP) violation("command in the pause after power-up");
            if (refreshes != 0 && early(last_refresh, T_RFC, 0)) violation("tRFC");
            if (mode_set && early(last_mode, T_MRD, 1)) violation("tMRD");
            case (code)
                MODE: do_mode;
                REFRESH_ALL: do_refresh;
                PRECHARGE:
                    if (a[10]) begin
                        for (i = 0; i < 4; i = i + 1)
                            check_precharge(i[1:0]);
                        if (!all_closed) last_precharge = now;
                        all_closed = 1;
                    end else
                        check_precharge(ba);
                ACTIVE: do_active;
                READ, WRITE: do_column;
                default: violation("burst terminate is not modelled");
            endcase
        end

        for (i = 0; i < 4; i = i + 1)
            if (opened[i] && (now - activated[i]) * CLOCK > T_RAS_MAX) violation("row open for longer than tRAS allows");
        if (initialised && (now - intact_since) * CLOCK > LATEST) late("REFRESH is late");
        if (initialised && (now - rows_refreshed[refreshes % REFRESH_ROWS]) * CLOCK > REFRESH)
            late("not all rows refreshed in time");

        // Data
        mask <= dqm_before;
        dqm_before <= dqm;
        words[1] <= words[0];
        words[2] <= words[1];
        words[3] <= words[2];
        on_way <= {on_way[2:0], reading};
        if (reading || writing) begin
            place = {row[bank], bank, (column & ~wrap) | ((column + word) & wrap)};
            if (writing) begin
                if (!dq_in_enable) violation("write data is not driven");
                if (!dqm[0]) mem[place][7:0] = dq_in[7:0];
                if (!dqm[1]) mem[place][15:8] = dq_in[15:8];
                written[bank] = now;
            end
            words[0] <= mem[place];
            word = word + 1;
            if (word == burst) begin
                reading = 0;
                writing = 0;
            end
        end
        now = now + 1;
    end

    // After the edge n + latency - 1 the first word of a READ at edge n stands at index latency - 1.
    wire out_enable = on_way[latency[1:0] - 2'd1] && latency != 0;
    wire [15:0] out = words[latency[1:0] - 2'd1];
    wire [15:0] out_word = out_enable ? {mask[1] ? noise[15:8] : out[15:8], mask[0] ? noise[7:0] : out[7:0]} : noise;

    generate
        if (ACCESS == 0) begin : at_once
            assign dq_out = out_word;
            assign dq_out_enable = out_enable;
        end else begin : half_late
            reg [15:0] late_word = 0;
            reg late_enable = 0;
            always @(negedge clk) begin
                late_word <= out_word;
                late_enable <= out_enable;
            end
            assign dq_out = late_word;
            assign dq_out_enable = late_enable;
        end
    endgenerate

    always @(clk)
        if (dq_in_enable === 1'b1 && dq_out_enable) violation("both sides drive DQ");
endmodule

`default_nettype wire
