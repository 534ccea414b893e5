// The memory side (dma_top.py) on sim/hdl/axi_memory.sv.

module dma_memory #(
    parameter WIDTH = 128,
    parameter BYTES = 1 << 18
) (
    input  wire         clk, rst, abort,
    input  wire [259:0] regions,
    input  wire         load__valid, store__valid, stream__valid,
    input  wire [511:0] load__payload, store__payload, stream__payload,
    output wire         load__ready, store__ready, stream__ready,
    output wire         load_done, store_done, stream_done, failed, idle, read_beat, write_beat, stalled,
    input  wire         take
);
    wire [31:0] araddr, awaddr;
    wire [7:0] arlen, awlen;
    wire arvalid, arready, rlast, rvalid, rready, awvalid, awready, wlast, wvalid, wready, bvalid, bready;
    wire [WIDTH-1:0] rdata, wdata;
    wire [WIDTH/8-1:0] wstrb;
    wire [1:0] rresp, bresp;
    wire load_error, store_error, stream_error;
    assign failed = load_error | store_error | stream_error;

    dma dma (
        .clk(clk), .rst(rst), .abort(abort), .regions(regions), .idle(idle),
        .read_beat(read_beat), .write_beat(write_beat), .stalled(stalled),
        .load__valid(load__valid), .load__payload(load__payload), .load__ready(load__ready),
        .store__valid(store__valid), .store__payload(store__payload), .store__ready(store__ready),
        .stream__valid(stream__valid), .stream__payload(stream__payload), .stream__ready(stream__ready),
        .load_status__done(load_done), .load_status__error(load_error), .load_status__code(),
        .store_status__done(store_done), .store_status__error(store_error), .store_status__code(),
        .stream_status__done(stream_done), .stream_status__error(stream_error), .stream_status__code(),
        .weights__beat_valid(), .weights__beat(), .weights__beat_take(take),
        .weights__scale_valid(), .weights__scale(), .weights__scale_take(take),
        .weights__keep(1'b0), .weights__rewind(1'b0),
        .vector_read__valid(1'b0), .vector_read__ready(), .vector_read__address(16'd0), .vector_read__data(),
        .vector_read__data_valid(), .vector_read__fault(),
        .vector_write__valid(1'b0), .vector_write__ready(), .vector_write__address(16'd0),
        .vector_write__data({WIDTH{1'b0}}), .vector_write__mask({WIDTH/32{1'b0}}), .vector_write__fault(),
        .m_axi_araddr(araddr), .m_axi_arlen(arlen), .m_axi_arvalid(arvalid), .m_axi_arready(arready),
        .m_axi_rdata(rdata), .m_axi_rresp(rresp), .m_axi_rlast(rlast), .m_axi_rvalid(rvalid), .m_axi_rready(rready),
        .m_axi_awaddr(awaddr), .m_axi_awlen(awlen), .m_axi_awvalid(awvalid), .m_axi_awready(awready),
        .m_axi_wdata(wdata), .m_axi_wstrb(wstrb), .m_axi_wlast(wlast), .m_axi_wvalid(wvalid), .m_axi_wready(wready),
        .m_axi_bresp(bresp), .m_axi_bvalid(bvalid), .m_axi_bready(bready),
        .m_axi_arid(), .m_axi_arsize(), .m_axi_arburst(), .m_axi_awid(), .m_axi_awsize(), .m_axi_awburst(),
        .m_axi_rid(1'b0), .m_axi_bid(1'b0)
    );

    axi_memory #(.DATA_WIDTH(WIDTH), .ADDR_WIDTH(32), .BYTES(BYTES)) memory (
        .clk(clk), .rst(rst), .dump(1'b0), .fill(1'b0), .dump_first(32'd0), .dump_beats(32'd0),
        .s_axi_araddr(araddr), .s_axi_arlen(arlen), .s_axi_arvalid(arvalid), .s_axi_arready(arready),
        .s_axi_rdata(rdata), .s_axi_rresp(rresp), .s_axi_rlast(rlast), .s_axi_rvalid(rvalid), .s_axi_rready(rready),
        .s_axi_awaddr(awaddr), .s_axi_awlen(awlen), .s_axi_awvalid(awvalid), .s_axi_awready(awready),
        .s_axi_wdata(wdata), .s_axi_wstrb(wstrb), .s_axi_wlast(wlast), .s_axi_wvalid(wvalid), .s_axi_wready(wready),
        .s_axi_bresp(bresp), .s_axi_bvalid(bvalid), .s_axi_bready(bready)
    );
endmodule
