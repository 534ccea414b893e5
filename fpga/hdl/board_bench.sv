// A board's design and its SDRAM, for a loop in C++; `starve` withholds the SDRAM's refreshes. Macro MODEL_PARAMETERS:
// parameters of the model.

`default_nettype none
`timescale 1ns / 1ps

module board_bench (
    input  wire       clk,
    input  wire       rst,
    input  wire       starve,
    input  wire       rx,
    output wire       tx,
    output wire [3:0] leds
);
    wire cke, cs_n, ras_n, cas_n, we_n, dq_oe, dq_i_enable;
    wire [1:0] ba, dqm;
    wire [12:0] a;
    wire [15:0] dq_o, dq_i;
    wire sdram_clk = ~clk;
    wire withheld = starve && {ras_n, cas_n, we_n} == 3'b001;

    unit board (
        .clk(clk), .rst(rst), .rx(rx), .tx(tx), .leds(leds),
        .sdram__cke(cke), .sdram__cs_n(cs_n), .sdram__ras_n(ras_n), .sdram__cas_n(cas_n), .sdram__we_n(we_n),
        .sdram__ba(ba), .sdram__a(a), .sdram__dqm(dqm), .sdram__dq_o(dq_o), .sdram__dq_oe(dq_oe), .sdram__dq_i(dq_i)
    );

    sdram_model #(`MODEL_PARAMETERS) memory (
        .clk(sdram_clk), .restart(rst), .cke(cke), .cs_n(cs_n | withheld), .ras_n(ras_n), .cas_n(cas_n), .we_n(we_n),
        .ba(ba), .a(a), .dqm(dqm), .dq_in(dq_o), .dq_in_enable(dq_oe), .dq_out(dq_i), .dq_out_enable(dq_i_enable)
    );
endmodule

`default_nettype wire
