// AXI4 slave memory for simulation (Verilator and Icarus -g2012): INCR bursts of whole beats, no IDs, in order.
//
// Contents: zero, then the file +image=FILE (raw bytes; byte 0 is bits 7:0 of beat 0; whole beats) at time 0.
// A rising edge of `dump` writes beats dump_first .. dump_first + dump_beats - 1 to +dump=FILE, one a line in hexadecimal.
// A rising edge of `fill` reads these beats from +fill=FILE (raw bytes), in which each edge finds what is new.
//
// Plusargs, each also a register of the same name that a bench may set by hierarchy:
//   read_latency     cycles from an AR handshake to its first R handshake, pipelined over bursts (at least 2)
//   write_latency    cycles from a last W handshake to its B handshake (at least 2)
//   bandwidth        beats served in 256 cycles, R and W together; 0: no limit
//   refresh_every    each so many cycles ...; 0: never
//   refresh_cycles   ... no beat is served for so many cycles, and all pages are closed
//   page_bytes       of a DRAM page, a power of two; pages lie in 8 banks in turn, one open in each; 0: no pages
//   page_miss        cycles that a read waits longer where its page is not open (bursts behind it do not wait twice)
//   stall_ar .. stall_b  probability in 1/256 that the channel pauses in a cycle; at most 255
//   seed             of the pauses; equal seeds give equal pauses in every simulator
//   error_first, error_bytes  addresses that answer SLVERR and are not written
// Addresses from BYTES on answer DECERR. A protocol violation prints "AXI VIOLATION ..." and ends the simulation with
// $fatal: VALID dropped or payload changed before READY, unaligned address, 4 KiB boundary crossed, WLAST misplaced,
// unknown control bits.

`default_nettype none

module axi_memory #(
    parameter DATA_WIDTH = 128,
    parameter ADDR_WIDTH = 32,
    parameter BYTES = 1 << 20
) (
    input  wire                    clk,
    input  wire                    rst,

    input  wire                    dump,
    input  wire                    fill,
    input  wire [31:0]             dump_first,
    input  wire [31:0]             dump_beats,

    input  wire [ADDR_WIDTH-1:0]   s_axi_araddr,
    input  wire [7:0]              s_axi_arlen,
    input  wire                    s_axi_arvalid,
    output wire                    s_axi_arready,
    output reg  [DATA_WIDTH-1:0]   s_axi_rdata,
    output reg  [1:0]              s_axi_rresp,
    output reg                     s_axi_rlast,
    output reg                     s_axi_rvalid,
    input  wire                    s_axi_rready,

    input  wire [ADDR_WIDTH-1:0]   s_axi_awaddr,
    input  wire [7:0]              s_axi_awlen,
    input  wire                    s_axi_awvalid,
    output wire                    s_axi_awready,
    input  wire [DATA_WIDTH-1:0]   s_axi_wdata,
    input  wire [DATA_WIDTH/8-1:0] s_axi_wstrb,
    input  wire                    s_axi_wlast,
    input  wire                    s_axi_wvalid,
    output wire                    s_axi_wready,
    output reg  [1:0]              s_axi_bresp,
    output reg                     s_axi_bvalid,
    input  wire                    s_axi_bready
);
    localparam BEAT_BYTES = DATA_WIDTH / 8;
    localparam BEAT_LOG = $clog2(BEAT_BYTES);
    localparam BEATS = BYTES / BEAT_BYTES;
    localparam QUEUE = 32;   // bursts waiting on each side

    reg [DATA_WIDTH-1:0] mem [0:BEATS-1] /* verilator public_flat_rw */;

    reg [31:0] read_latency   /* verilator public_flat_rw */;
    reg [31:0] write_latency  /* verilator public_flat_rw */;
    reg [31:0] bandwidth      /* verilator public_flat_rw */;
    reg [31:0] refresh_every  /* verilator public_flat_rw */;
    reg [31:0] refresh_cycles /* verilator public_flat_rw */;
    reg [31:0] page_bytes     /* verilator public_flat_rw */;
    reg [31:0] page_miss      /* verilator public_flat_rw */;
    reg [31:0] stall_ar       /* verilator public_flat_rw */;
    reg [31:0] stall_r        /* verilator public_flat_rw */;
    reg [31:0] stall_aw       /* verilator public_flat_rw */;
    reg [31:0] stall_w        /* verilator public_flat_rw */;
    reg [31:0] stall_b        /* verilator public_flat_rw */;
    reg [31:0] seed           /* verilator public_flat_rw */;
    reg [63:0] error_first    /* verilator public_flat_rw */;
    reg [63:0] error_bytes    /* verilator public_flat_rw */;

    // Contents

    integer file, length, i;
    reg [8*1024-1:0] image_name, dump_name, fill_name;
    reg [DATA_WIDTH-1:0] big;

    function [DATA_WIDTH-1:0] swapped(input [DATA_WIDTH-1:0] word);
        integer b;
        for (b = 0; b < BEAT_BYTES; b = b + 1)
            swapped[8*b +: 8] = word[DATA_WIDTH - 8 - 8*b +: 8];
    endfunction

    initial begin
        for (i = 0; i < BEATS; i = i + 1)
            mem[i] = {DATA_WIDTH{1'b0}};
        if ($value$plusargs("image=%s", image_name)) begin
            file = $fopen(image_name, "rb");
            if (file == 0)
                $fatal(1, "axi_memory: cannot open the image %0s", image_name);
            length = $fread(mem, file);
            if (length % BEAT_BYTES != 0)
                $fatal(1, "axi_memory: image of %0d bytes: must be whole beats of %0d", length, BEAT_BYTES);
            if ($fgetc(file) != -1)
                $fatal(1, "axi_memory: image larger than BYTES = %0d", BYTES);
            $fclose(file);
            for (i = 0; i < length / BEAT_BYTES; i = i + 1) begin   // $fread puts the first byte at the top
                big = mem[i];
                mem[i] = swapped(big);
            end
        end
    end

    initial begin
        if (!$value$plusargs("read_latency=%d", read_latency)) read_latency = 2;
        if (!$value$plusargs("write_latency=%d", write_latency)) write_latency = 2;
        if (!$value$plusargs("bandwidth=%d", bandwidth)) bandwidth = 0;
        if (!$value$plusargs("refresh_every=%d", refresh_every)) refresh_every = 0;
        if (!$value$plusargs("refresh_cycles=%d", refresh_cycles)) refresh_cycles = 0;
        if (!$value$plusargs("page_bytes=%d", page_bytes)) page_bytes = 0;
        if (!$value$plusargs("page_miss=%d", page_miss)) page_miss = 0;
        if (!$value$plusargs("stall_ar=%d", stall_ar)) stall_ar = 0;
        if (!$value$plusargs("stall_r=%d", stall_r)) stall_r = 0;
        if (!$value$plusargs("stall_aw=%d", stall_aw)) stall_aw = 0;
        if (!$value$plusargs("stall_w=%d", stall_w)) stall_w = 0;
        if (!$value$plusargs("stall_b=%d", stall_b)) stall_b = 0;
        if (!$value$plusargs("seed=%d", seed)) seed = 1;
        if (!$value$plusargs("error_first=%d", error_first)) error_first = 0;
        if (!$value$plusargs("error_bytes=%d", error_bytes)) error_bytes = 0;
    end

    reg dump_before = 1'b0;
    always @(posedge clk) begin
        dump_before <= dump;
        if (dump && !dump_before) begin
            if (!$value$plusargs("dump=%s", dump_name))
                $fatal(1, "axi_memory: dump without +dump=FILE");
            file = $fopen(dump_name, "w");
            for (i = dump_first; i < dump_first + dump_beats; i = i + 1)
                $fdisplay(file, "%h", mem[i]);
            $fclose(file);
        end
    end

    // Pauses, refresh, bandwidth

    reg [31:0] noise_ar, noise_r, noise_aw, noise_w, noise_b;
    function [31:0] xorshift(input [31:0] x);
        reg [31:0] y;
        begin
            y = x ^ (x << 13);
            y = y ^ (y >> 17);
            xorshift = y ^ (y << 5);
        end
    endfunction

    reg [63:0] now;
    reg [31:0] since_refresh;
    wire refreshing = refresh_every != 0 && since_refresh < refresh_cycles;

    reg signed [15:0] credit;   // 256 a beat; above zero: a beat may go
    wire serve = !refreshing && (bandwidth == 0 || credit > 0);
    wire read_served;
    wire write_served = s_axi_wvalid && s_axi_wready;
    reg signed [15:0] credit_after;

    always @(posedge clk) begin
        if (rst) begin
            now <= 0;
            since_refresh <= 0;
            credit <= 256;
            noise_ar <= (seed ^ 32'h9e3779b9) | 1;
            noise_r  <= (seed ^ 32'h7f4a7c15) | 1;
            noise_aw <= (seed ^ 32'hf39cc060) | 1;
            noise_w  <= (seed ^ 32'h5cedc834) | 1;
            noise_b  <= (seed ^ 32'h1082276b) | 1;
        end else begin
            now <= now + 1;
            since_refresh <= since_refresh + 1 >= refresh_every ? 0 : since_refresh + 1;
            credit_after = credit + $signed(bandwidth[15:0]) - (read_served ? 16'sd256 : 16'sd0)
                                                             - (write_served ? 16'sd256 : 16'sd0);
            credit <= credit_after > 256 ? 16'sd256 : credit_after;
            noise_ar <= xorshift(noise_ar);
            noise_r  <= xorshift(noise_r);
            noise_aw <= xorshift(noise_aw);
            noise_w  <= xorshift(noise_w);
            noise_b  <= xorshift(noise_b);
        end
    end

    function [1:0] response(input [ADDR_WIDTH-1:0] address);
        reg [63:0] a;
        begin
            a = address;
            if (a >= BYTES)
                response = 2'b11;
            else if (a >= error_first && a - error_first < error_bytes)
                response = 2'b10;
            else
                response = 2'b00;
        end
    endfunction

    function [31:0] beat_index(input [ADDR_WIDTH-1:0] address);
        beat_index = address >> BEAT_LOG;
    endfunction

    // Pages: opened by the bursts that come in, closed by refresh and by other pages of their bank

    wire read_taken = s_axi_arvalid && s_axi_arready;
    wire write_taken = s_axi_awvalid && s_axi_awready;
    reg [ADDR_WIDTH-1:0] open_page [0:7];
    reg [7:0] is_open;
    wire [ADDR_WIDTH-1:0] read_page = page_bytes == 0 ? 0 : s_axi_araddr / page_bytes;
    wire [ADDR_WIDTH-1:0] write_page = page_bytes == 0 ? 0 : s_axi_awaddr / page_bytes;
    wire read_misses = page_bytes != 0 && !(is_open[read_page[2:0]] && open_page[read_page[2:0]] == read_page);

    always @(posedge clk) begin
        if (rst || refreshing)
            is_open <= 0;
        if (!rst && write_taken) begin
            open_page[write_page[2:0]] <= write_page;
            is_open[write_page[2:0]] <= 1;
        end
        if (!rst && read_taken) begin
            open_page[read_page[2:0]] <= read_page;
            is_open[read_page[2:0]] <= 1;
        end
    end

    // Reads: bursts queue with the time from which they may be answered

    reg [ADDR_WIDTH-1:0] read_address [0:QUEUE-1];
    reg [7:0]            read_length  [0:QUEUE-1];
    reg [63:0]           read_time    [0:QUEUE-1];
    reg [4:0] read_head, read_tail;
    reg [5:0] read_count;
    reg [7:0] read_beat;

    wire [ADDR_WIDTH-1:0] read_at = read_address[read_head] + (read_beat << BEAT_LOG);
    wire read_last = read_beat == read_length[read_head];
    assign s_axi_arready = !rst && read_count < QUEUE && noise_ar[15:8] >= stall_ar;
    assign read_served = !rst && read_count != 0 && now >= read_time[read_head] && serve && noise_r[15:8] >= stall_r
                         && (!s_axi_rvalid || s_axi_rready);

    always @(posedge clk) begin
        if (rst) begin
            read_head <= 0;
            read_tail <= 0;
            read_count <= 0;
            read_beat <= 0;
            s_axi_rvalid <= 0;
            s_axi_rdata <= 0;
            s_axi_rresp <= 0;
            s_axi_rlast <= 0;
        end else begin
            if (read_taken) begin
                read_address[read_tail] <= s_axi_araddr;
                read_length[read_tail] <= s_axi_arlen;
                read_time[read_tail] <= now + read_latency - 1 + (read_misses ? page_miss : 0);
                read_tail <= read_tail + 1;
            end
            if (s_axi_rready)
                s_axi_rvalid <= 0;
            if (read_served) begin
                s_axi_rvalid <= 1;
                s_axi_rresp <= response(read_at);
                s_axi_rdata <= response(read_at) == 0 ? mem[beat_index(read_at)] : {DATA_WIDTH{1'b0}};
                s_axi_rlast <= read_last;
                read_beat <= read_last ? 0 : read_beat + 1;
                if (read_last)
                    read_head <= read_head + 1;
            end
            read_count <= read_count + (read_taken ? 6'd1 : 6'd0) - (read_served && read_last ? 6'd1 : 6'd0);
        end
    end

    // Writes: data is taken for bursts whose address is there; responses queue with their time

    reg [ADDR_WIDTH-1:0] write_address [0:QUEUE-1];
    reg [7:0]            write_length  [0:QUEUE-1];
    reg [1:0]            write_result  [0:QUEUE-1];
    reg [63:0]           write_time    [0:QUEUE-1];
    reg [4:0] write_head, write_tail, result_head;
    reg [5:0] write_count, result_count;
    reg [7:0] write_beat;
    reg [1:0] write_worst;
    reg [DATA_WIDTH-1:0] merged, beat;
    reg fill_before = 1'b0;
    integer lane, fill_file, j;

    wire [ADDR_WIDTH-1:0] write_at = write_address[write_head] + (write_beat << BEAT_LOG);
    wire write_last = write_beat == write_length[write_head];
    wire [1:0] write_now = response(write_at) | write_worst;
    assign s_axi_awready = !rst && write_count + result_count < QUEUE && noise_aw[15:8] >= stall_aw;
    assign s_axi_wready = !rst && write_count != 0 && serve && noise_w[15:8] >= stall_w;
    wire write_ended = write_served && write_last;
    wire result_sent = result_count != 0 && now >= write_time[result_head] && noise_b[15:8] >= stall_b
                       && (!s_axi_bvalid || s_axi_bready);

    always @(posedge clk) begin
        if (rst) begin
            write_head <= 0;
            write_tail <= 0;
            write_count <= 0;
            write_beat <= 0;
            write_worst <= 0;
            result_head <= 0;
            result_count <= 0;
            s_axi_bvalid <= 0;
            s_axi_bresp <= 0;
        end else begin
            if (write_taken) begin
                write_address[write_tail] <= s_axi_awaddr;
                write_length[write_tail] <= s_axi_awlen;
                write_tail <= write_tail + 1;
            end
            if (write_served) begin
                if (response(write_at) == 0) begin
                    merged = mem[beat_index(write_at)];
                    for (lane = 0; lane < BEAT_BYTES; lane = lane + 1)
                        if (s_axi_wstrb[lane])
                            merged[8*lane +: 8] = s_axi_wdata[8*lane +: 8];
                    mem[beat_index(write_at)] <= merged;
                end
                write_beat <= write_last ? 0 : write_beat + 1;
                write_worst <= write_last ? 0 : write_now;
                if (write_last) begin
                    write_result[write_head] <= write_now;
                    write_time[write_head] <= now + write_latency - 1;
                    write_head <= write_head + 1;
                end
            end
            if (s_axi_bready)
                s_axi_bvalid <= 0;
            if (result_sent) begin
                s_axi_bvalid <= 1;
                s_axi_bresp <= write_result[result_head];
                result_head <= result_head + 1;
            end
            fill_before <= fill;
            if (fill && !fill_before) begin   // here, as memory has one process that writes it
                if (!$value$plusargs("fill=%s", fill_name))
                    $fatal(1, "axi_memory: fill without +fill=FILE");
                fill_file = $fopen(fill_name, "rb");
                if (fill_file == 0)
                    $fatal(1, "axi_memory: cannot open %0s", fill_name);
                for (j = dump_first; j < dump_first + dump_beats; j = j + 1) begin
                    if ($fread(beat, fill_file) != BEAT_BYTES)
                        $fatal(1, "axi_memory: %0s holds less than %0d beats", fill_name, dump_beats);
                    mem[j] <= swapped(beat);
                end
                $fclose(fill_file);
            end
            write_count <= write_count + (write_taken ? 6'd1 : 6'd0) - (write_ended ? 6'd1 : 6'd0);
            result_count <= result_count + (write_ended ? 6'd1 : 6'd0) - (result_sent ? 6'd1 : 6'd0);
        end
    end

    // Protocol checks

    task violation(input [8*48-1:0] what);
        begin
            $display("AXI VIOLATION in cycle %0d: %0s", now, what);
            $fatal(1, "AXI VIOLATION");
        end
    endtask

    function crosses(input [ADDR_WIDTH-1:0] address, input [7:0] len);
        crosses = {1'b0, address[11:0]} + ((len + 13'd1) << BEAT_LOG) > 13'd4096;
    endfunction

    wire [ADDR_WIDTH-1:0] ar_low = s_axi_araddr & (BEAT_BYTES - 1);
    wire [ADDR_WIDTH-1:0] aw_low = s_axi_awaddr & (BEAT_BYTES - 1);
    wire [ADDR_WIDTH+7:0] ar_payload = {s_axi_araddr, s_axi_arlen};
    wire [ADDR_WIDTH+7:0] aw_payload = {s_axi_awaddr, s_axi_awlen};
    wire [DATA_WIDTH+DATA_WIDTH/8:0] w_payload = {s_axi_wdata, s_axi_wstrb, s_axi_wlast};
    reg ar_waits, aw_waits, w_waits;
    reg [ADDR_WIDTH+7:0] ar_before, aw_before;
    reg [DATA_WIDTH+DATA_WIDTH/8:0] w_before;

    always @(posedge clk) begin
        ar_waits <= !rst && s_axi_arvalid && !s_axi_arready;
        aw_waits <= !rst && s_axi_awvalid && !s_axi_awready;
        w_waits <= !rst && s_axi_wvalid && !s_axi_wready;
        ar_before <= ar_payload;
        aw_before <= aw_payload;
        w_before <= w_payload;
        if (rst === 1'b0) begin
            if ((^{s_axi_arvalid, s_axi_rready, s_axi_awvalid, s_axi_wvalid, s_axi_bready}) === 1'bx)
                violation("VALID or READY unknown");
            if (ar_waits === 1'b1) begin
                if (!s_axi_arvalid) violation("ARVALID dropped before ARREADY");
                if (ar_payload !== ar_before) violation("AR payload changed before ARREADY");
            end
            if (aw_waits === 1'b1) begin
                if (!s_axi_awvalid) violation("AWVALID dropped before AWREADY");
                if (aw_payload !== aw_before) violation("AW payload changed before AWREADY");
            end
            if (w_waits === 1'b1) begin
                if (!s_axi_wvalid) violation("WVALID dropped before WREADY");
                if (w_payload !== w_before) violation("W payload changed before WREADY");
            end
            if (s_axi_arvalid) begin
                if ((^ar_payload) === 1'bx) violation("AR payload unknown");
                if (ar_low != 0) violation("ARADDR not aligned to a beat");
                if (crosses(s_axi_araddr, s_axi_arlen)) violation("read crosses 4 KiB");
            end
            if (s_axi_awvalid) begin
                if ((^aw_payload) === 1'bx) violation("AW payload unknown");
                if (aw_low != 0) violation("AWADDR not aligned to a beat");
                if (crosses(s_axi_awaddr, s_axi_awlen)) violation("write crosses 4 KiB");
            end
            if (s_axi_wvalid && (^{s_axi_wstrb, s_axi_wlast}) === 1'bx)
                violation("WSTRB or WLAST unknown");
            if (write_served && s_axi_wlast != write_last)
                violation("WLAST misplaced");
        end
    end
endmodule

`default_nettype wire
