// Clocks netlist_bench. Argument: cycles.
#include <cstdlib>

#include "Vunit.h"
#include "verilated.h"

int main(int argc, char **argv) {
    VerilatedContext context;
    context.commandArgs(argc, argv);
    Vunit bench{&context};
    for (long edges = 2 * std::atol(argv[1]); edges-- && !context.gotFinish();) {
        bench.clk = !bench.clk;
        bench.eval();
    }
    bench.final();
}
