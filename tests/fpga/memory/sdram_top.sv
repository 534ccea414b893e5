// The controller on the model, with the SDRAM's clock inverted, and the constant ports that cocotbext-axi insists on.

`timescale 1ns / 1ps

module sdram_top #(
    parameter WIDTH = 32,
    parameter ACCESS = 1
) (
    input  wire clk, rst,
    input  wire starve,    // withholds all refreshes
    output wire initialised,
    input  wire [0:0] s_axi_arid, s_axi_awid,
    input  wire [31:0] s_axi_araddr, s_axi_awaddr,
    input  wire [7:0] s_axi_arlen, s_axi_awlen,
    input  wire [2:0] s_axi_arsize, s_axi_awsize,
    input  wire [1:0] s_axi_arburst, s_axi_awburst,
    input  wire s_axi_arvalid, s_axi_awvalid, s_axi_wvalid, s_axi_wlast, s_axi_rready, s_axi_bready,
    output wire s_axi_arready, s_axi_awready, s_axi_wready, s_axi_rvalid, s_axi_rlast, s_axi_bvalid,
    output wire [0:0] s_axi_rid, s_axi_bid,
    output wire [1:0] s_axi_rresp, s_axi_bresp,
    input  wire [WIDTH-1:0] s_axi_wdata,
    input  wire [WIDTH/8-1:0] s_axi_wstrb,
    output wire [WIDTH-1:0] s_axi_rdata
);
    wire cke, cs_n, ras_n, cas_n, we_n, dq_oe;
    wire [1:0] ba, dqm;
    wire [12:0] a;
    wire [15:0] dq_o, dq_i;
    wire dq_i_enable;
    wire sdram_clk = ~clk;
    wire withheld = starve && {ras_n, cas_n, we_n} == 3'b001;

    assign s_axi_rid = 1'b0;
    assign s_axi_bid = 1'b0;

    sdram controller (
        .clk(clk), .rst(rst), .initialised(initialised),
        .read__araddr(s_axi_araddr), .read__arlen(s_axi_arlen), .read__arvalid(s_axi_arvalid),
        .read__arready(s_axi_arready), .read__rdata(s_axi_rdata), .read__rresp(s_axi_rresp),
        .read__rlast(s_axi_rlast), .read__rvalid(s_axi_rvalid), .read__rready(s_axi_rready),
        .write__awaddr(s_axi_awaddr), .write__awlen(s_axi_awlen), .write__awvalid(s_axi_awvalid),
        .write__awready(s_axi_awready), .write__wdata(s_axi_wdata), .write__wstrb(s_axi_wstrb),
        .write__wlast(s_axi_wlast), .write__wvalid(s_axi_wvalid), .write__wready(s_axi_wready),
        .write__bresp(s_axi_bresp), .write__bvalid(s_axi_bvalid), .write__bready(s_axi_bready),
        .pins__cke(cke), .pins__cs_n(cs_n), .pins__ras_n(ras_n), .pins__cas_n(cas_n), .pins__we_n(we_n), .pins__ba(ba),
        .pins__a(a), .pins__dqm(dqm), .pins__dq_o(dq_o), .pins__dq_oe(dq_oe), .pins__dq_i(dq_i)
    );

    sdram_model #(.ACCESS(ACCESS) `ifdef MODEL_PARAMETERS , `MODEL_PARAMETERS `endif) memory (
        .clk(sdram_clk), .restart(rst), .cke(cke), .cs_n(cs_n | withheld), .ras_n(ras_n), .cas_n(cas_n), .we_n(we_n),
        .ba(ba), .a(a), .dqm(dqm), .dq_in(dq_o), .dq_in_enable(dq_oe), .dq_out(dq_i), .dq_out_enable(dq_i_enable)
    );
endmodule

// Lattice's I/O flip-flops, as far as the controller uses them: clocked always, never cleared.

module IFS1P3DX (input wire SCLK, SP, CD, D, output reg Q);
    always @(posedge SCLK) Q <= D;
endmodule

module OFS1P3DX (input wire SCLK, SP, CD, D, output reg Q);
    initial Q = 1'b0;
    always @(posedge SCLK) Q <= D;
endmodule

module OFS1P3BX (input wire SCLK, SP, PD, D, output reg Q);
    initial Q = 1'b1;
    always @(posedge SCLK) Q <= D;
endmodule
