// Every operand of an FP16 unit, or every pair of operands, against the host's arithmetic in double.
//
// OPERATION: 0 multiply, 1 add (operands a and b in FP16), 2 convert (operand in FP32). LANES operands a step, which
// takes CYCLES clocks; the results are there DELAY clocks after the step's last one.
// Arguments: first and past-the-last block (65,536 operands or pairs each), mismatches after which to stop, and 1 for
// the unit with a planted bug.
// Output: "done BLOCKS" now and then, "mismatch ..." for each, and at the end "checked PAIRS mismatches N".

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "Vunit.h"
#include "verilated.h"

static constexpr uint32_t NAN32 = 0x7FC00000, NAN16 = 0x7E00;

static uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

static double value_of_half(uint32_t h) {
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const double magnitude = exponent == 31 ? fraction ? std::numeric_limits<double>::quiet_NaN() : HUGE_VAL
                             : exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
    return h & 0x8000 ? -magnitude : magnitude;
}

// One rounding, to nearest, ties to even; x is exact.
static uint32_t half_of(double x) {
    if (x != x) return NAN16;
    const uint32_t sign = std::signbit(x) ? 0x8000 : 0;
    const double magnitude = std::fabs(x);
    if (magnitude >= 65520.0) return sign | 0x7C00;
    if (magnitude < 0x1p-26) return sign;
    uint64_t bits;
    std::memcpy(&bits, &magnitude, sizeof bits);
    int exponent = int(bits >> 52) - 1023;
    if (exponent < -14) exponent = -14;
    const uint64_t scale_bits = uint64_t(1023 + 10 - exponent) << 52;  // 2^(10 - exponent)
    double scale;
    std::memcpy(&scale, &scale_bits, sizeof scale);
    const double steps = (magnitude * scale + 0x1p52) - 0x1p52;  // rounded to an integer by the host's own addition
    return sign | (uint32_t((exponent + 14) << 10) + uint32_t(steps));
}

// docs/numerics.md: every NaN is the quiet one; the engine's exact zero is +0.
static uint32_t engine_word(double exact) {
    return exact != exact ? NAN32 : exact == 0 ? 0 : bits_of(float(exact));
}

// The lane's operand or pair in a block: all of one block have the same a, or the same upper half.
struct Step {
    uint32_t block, low;
};

struct Expected {
    uint32_t wide, half;
};

static double halves[65536];

static Expected expect(uint32_t block, uint32_t low) {
#if OPERATION == 2
    const float x = float_of(block << 16 | low);
    return {0, half_of(x)};
#else
    const double a = halves[block], b = halves[low];
    const double exact = OPERATION == 0 ? a * b : a + b;  // 22 bits, and 41
    return {engine_word(exact), half_of(exact == 0 ? 0.0 : exact)};
#endif
}

int main(int argc, char** argv) {
    if (argc != 5) return 2;
    const uint32_t first = std::atoi(argv[1]), last = std::atoi(argv[2]), stop = std::atoi(argv[3]);
    for (uint32_t h = 0; h < 65536; ++h) halves[h] = value_of_half(h);

    VerilatedContext context;
    Vunit top{&context};
    auto clock = [&] {
        top.clk = 0;
        top.eval();
        top.clk = 1;
        top.eval();
    };
    top.rst = 0;
    top.planted = std::atoi(argv[4]);
    for (int i = 0; i < 64 * CYCLES; ++i) clock();

    constexpr uint32_t STEPS = 65536 / LANES;
    const uint64_t total = uint64_t(last - first) * STEPS;
    std::vector<Step> pending(DELAY);
    uint64_t mismatches = 0, checked = 0, n = 0;
    auto told = std::chrono::steady_clock::now();
    // Steps past the end push the last ones through the pipeline. A step's results stand after the clock numbered
    // CYCLES * step + CYCLES - 1 + DELAY - 1; in between a further step may begin.
    for (uint64_t t = 0; checked < total && mismatches < stop; ++t) {
        if (t % CYCLES == 0) {
            n = t / CYCLES;
            // Blocks in scattered order, so that a part of them is a fair sample.
            const uint32_t block = (first + uint32_t(n / STEPS)) * 40503u & 0xFFFF, low = n % STEPS * LANES;
            pending[n % DELAY] = {block, low};
#if OPERATION == 2
            for (uint32_t lane = 0; lane < LANES; ++lane) top.x[lane] = block << 16 | (low + lane);
#else
            top.a = block;
            for (uint32_t lane = 0; lane < LANES; lane += 2) top.b[lane / 2] = (low + lane) | (low + lane + 1) << 16;
#endif
        }
        clock();
        const int64_t since = int64_t(t) - (CYCLES - 1 + DELAY - 1);
        if (since < 0 || since % CYCLES) continue;
        const Step step = pending[since / CYCLES % DELAY];
        for (uint32_t lane = 0; lane < LANES; ++lane) {
            const Expected expected = expect(step.block, step.low + lane);
            const uint32_t half = top.half[lane / 2] >> (lane % 2 * 16) & 0xFFFF;
#if OPERATION == 2
            const uint32_t wide = 0;
#else
            const uint32_t wide = top.wide[lane];
#endif
            if (wide == expected.wide && half == expected.half) continue;
            ++mismatches;
            std::printf("mismatch operands %04x %04x: FP32 %08x, expected %08x; FP16 %04x, expected %04x\n",
                        step.block, step.low + lane, wide, expected.wide, half, expected.half);
            if (mismatches >= stop) break;
        }
        ++checked;
        if (checked % STEPS == 0) {
            const auto now = std::chrono::steady_clock::now();
            if (now - told > std::chrono::seconds(1)) {
                std::printf("done %llu\n", (unsigned long long)(checked / STEPS));
                std::fflush(stdout);
                told = now;
            }
        }
    }
    std::printf("checked %llu mismatches %llu\n", (unsigned long long)(checked * LANES), (unsigned long long)mismatches);
    return mismatches ? 1 : 0;
}
