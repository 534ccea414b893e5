// One vector a cycle through a free-running pipeline. Built with -DDELAY=<cycles> and -DINPUTS=X(a)X(b)...;
// vectors have one 64-bit word an input, results one 64-bit word each.
#include <cstdint>
#include <cstdio>
#include "Vtop.h"

int main(int argc, char **argv) {
    FILE *in = std::fopen(argv[1], "rb"), *out = std::fopen(argv[2], "wb");
    if (argc != 3 || !in || !out) return 1;
    VerilatedContext context;
    Vtop top(&context);
    top.rst = 0;
    enum {
#define X(name) I_##name,
        INPUTS
#undef X
        WORDS
    };
    uint64_t row[WORDS] = {};
    bool more = true;
    for (long cycle = 0, end = -1; end < 0 || cycle < end; cycle++) {
        if (more && std::fread(row, sizeof row, 1, in) != 1) more = false, end = cycle + DELAY;
        if (end >= 0 && cycle >= end) break;
        // After setting the inputs of this cycle, before its edge, the output belongs to the vector DELAY cycles ago.
#define X(name) top.name = row[I_##name];
        INPUTS
#undef X
        top.clk = 0;
        top.eval();
        if (cycle >= DELAY) {
            uint64_t result = top.o;
            std::fwrite(&result, sizeof result, 1, out);
        }
        top.clk = 1;
        top.eval();
    }
    std::fclose(out);
    top.final();
    return 0;
}
