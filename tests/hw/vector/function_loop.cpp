// TableFunction over a stream: pairs of words (select, x) from standard input, results to standard output.

#include <cstdint>
#include <cstdio>

#include "Vunit.h"
#include "verilated.h"

int main() {
    VerilatedContext context;
    Vunit top{&context};
    top.rst = 0;
    uint32_t pair[2];
    bool more = true;
    for (uint64_t given = 0, taken = 0, t = 0; more || taken < given; ++t) {
        if (more && (more = std::fread(pair, 4, 2, stdin) == 2)) {
            top.select = pair[0];
            top.x = pair[1];
            ++given;
        }
        top.clk = 0;
        top.eval();
        top.clk = 1;
        top.eval();
        if (t + 1 >= DELAY && taken < given) {
            const uint32_t o = top.o;
            std::fwrite(&o, 4, 1, stdout);
            ++taken;
        }
    }
}
