// A unit and its netlist side by side on random inputs; their outputs are equal in every cycle, or the run ends.
// Macros: INPUTS, OUTPUTS (bits). How often inputs are high changes every 64 cycles; now and then there is a reset.

module netlist_bench (input wire clk);
    reg rst = 1;
    reg [`INPUTS-1:0] stimulus = 0;
    wire [`OUTPUTS-1:0] expected, got;
    unit original (.clk(clk), .rst(rst), .i(stimulus), .o(expected));
    unit_netlist netlist (.clk(clk), .rst(rst), .i(stimulus), .o(got));

    reg [63:0] cycle = 0, changes = 0;
    reg [`OUTPUTS-1:0] last = 0;
    reg [`INPUTS-1:0] first, second;
    reg [1:0] density = 0;
    integer at;
    always @(posedge clk) begin
        if (expected !== got) begin
            $display("cycle %0d: got %h, expected %h", cycle, got, expected);
            $fatal(1, "netlist and design differ");
        end
        cycle <= cycle + 1;
        last <= expected;
        changes <= changes + 64'(last != expected);
        for (at = 0; at < `INPUTS; at = at + 1) begin
            first[at] = 1'($urandom);
            second[at] = 1'($urandom);
        end
        if (cycle % 64 == 0) density <= 2'($urandom);
        stimulus <= density == 0 ? first & second : density == 1 ? first | second : first;
        rst <= cycle < 2 || 10'($urandom) == 0;
    end
    final $display("%0d cycles equal, outputs changed in %0d", cycle, changes);
endmodule
