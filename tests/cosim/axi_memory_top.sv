// axi_memory with the constant ports that cocotbext-axi's master insists on.

`timescale 1ns / 1ps

module axi_memory_top #(
    parameter WIDTH = 64,
    parameter BYTES = 1 << 16
) (
    input  wire clk, rst, dump,
    input  wire [31:0] dump_first, dump_beats,
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
    assign s_axi_rid = 1'b0;
    assign s_axi_bid = 1'b0;

    axi_memory #(.DATA_WIDTH(WIDTH), .ADDR_WIDTH(32), .BYTES(BYTES)) memory (
        .clk(clk), .rst(rst), .dump(dump), .fill(1'b0), .dump_first(dump_first), .dump_beats(dump_beats),
        .s_axi_araddr(s_axi_araddr), .s_axi_arlen(s_axi_arlen), .s_axi_arvalid(s_axi_arvalid),
        .s_axi_arready(s_axi_arready), .s_axi_rdata(s_axi_rdata), .s_axi_rresp(s_axi_rresp),
        .s_axi_rlast(s_axi_rlast), .s_axi_rvalid(s_axi_rvalid), .s_axi_rready(s_axi_rready),
        .s_axi_awaddr(s_axi_awaddr), .s_axi_awlen(s_axi_awlen), .s_axi_awvalid(s_axi_awvalid),
        .s_axi_awready(s_axi_awready), .s_axi_wdata(s_axi_wdata), .s_axi_wstrb(s_axi_wstrb),
        .s_axi_wlast(s_axi_wlast), .s_axi_wvalid(s_axi_wvalid), .s_axi_wready(s_axi_wready),
        .s_axi_bresp(s_axi_bresp), .s_axi_bvalid(s_axi_bvalid), .s_axi_bready(s_axi_bready)
    );
endmodule
