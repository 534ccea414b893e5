// Plays pins to sdram_model from the file +script=FILE, and prints what comes back. Each line: cycles, then cke, cs_n,
// {ras_n, cas_n, we_n}, ba, a, dqm, dq, its enable, and restart, in hexadecimal; the first of the cycles has the command, the
// others repeat all but the command.

`timescale 1ns / 1ps

module sdram_script;
    reg clk = 0;
    reg cke = 1, cs_n = 1, enable = 0, restart = 0;
    reg [2:0] code = 7;
    reg [1:0] ba = 0, dqm = 3;
    reg [12:0] a = 0;
    reg [15:0] dq = 0;
    wire [15:0] dq_out;
    wire dq_out_enable;

    sdram_model #(
        .ROW_BITS(4), .POWER_UP(200000), .T_RC(100000), .T_RAS_MAX(3000000), .T_CK_CL3(12000), .REFRESH_NS(8000),
        .REFRESH_ROWS(16)
    ) memory (
        .clk(clk), .restart(restart), .cke(cke), .cs_n(cs_n), .ras_n(code[2]), .cas_n(code[1]), .we_n(code[0]), .ba(ba), .a(a),
        .dqm(dqm), .dq_in(dq), .dq_in_enable(enable), .dq_out(dq_out), .dq_out_enable(dq_out_enable)
    );

    integer file, count, got, cycle;
    reg [8*1024-1:0] name;
    initial begin
        if (!$value$plusargs("script=%s", name))
            $fatal(1, "sdram_script: no +script=FILE");
        file = $fopen(name, "r");
        cycle = 0;
        got = $fscanf(file, "%d %h %h %h %h %h %h %h %h %h\n", count, cke, cs_n, code, ba, a, dqm, dq, enable,
            restart);
        while (got == 10) begin
            while (count > 0) begin
                #5 clk = 1;
                #4 if (dq_out_enable)
                    $display("read %0d %h", cycle, dq_out);
                #1 clk = 0;
                code = 7;
                cycle = cycle + 1;
                count = count - 1;
            end
            got = $fscanf(file, "%d %h %h %h %h %h %h %h %h %h\n", count, cke, cs_n, code, ba, a, dqm, dq, enable,
            restart);
        end
        $display("end of script in cycle %0d", cycle);
        $finish;
    end
endmodule
