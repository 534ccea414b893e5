// A simulated board whose serial line is a file descriptor, such as a pseudo-terminal's.
//
// Macros: BIT_CYCLES, clock cycles of a bit on the line; NO_SDRAM, the board has none. Arguments: the descriptor, then
// plusargs of the model.
// SIGUSR1 is the reset button; SIGUSR2 withholds the SDRAM's refreshes for STARVED_CYCLES; SIGTERM ends the simulation.
// At its end it prints "cycles N".

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "Vunit.h"
#include "verilated.h"

static volatile std::sig_atomic_t pressed = 0, starved = 0, ended = 0;

static constexpr int RESET_CYCLES = 16;
static constexpr int STARVED_CYCLES = 20'000;           // several times what a refresh may be late
static constexpr int FRAME_BITS = 10;
static constexpr uint64_t LOOK_CYCLES = 256;          // between looks at an empty descriptor
static constexpr uint64_t IDLE_CYCLES = 4'000'000;    // without a byte or a program, until the simulation slows down

// What the host sends, bit by bit onto the board's rx.
class Sender {
public:
    explicit Sender(int descriptor) : descriptor_(descriptor) {}

    // The line's level in this cycle.
    bool level(uint64_t cycle) {
        if (left_ == 0) {
            if (at_ == filled_ && cycle >= look_) fill(cycle);
            if (at_ == filled_) return true;
            frame_ = 0x200 | unsigned(buffer_[at_++]) << 1;   // start bit low, stop bit high
            left_ = FRAME_BITS * BIT_CYCLES;
        }
        const bool bit = frame_ >> ((FRAME_BITS * BIT_CYCLES - left_) / BIT_CYCLES) & 1;
        --left_;
        return bit;
    }

    bool idle() const { return left_ == 0 && at_ == filled_; }

private:
    void fill(uint64_t cycle) {
        const ssize_t got = read(descriptor_, buffer_, sizeof buffer_);
        at_ = 0;
        filled_ = got > 0 ? int(got) : 0;
        look_ = cycle + LOOK_CYCLES;
    }

    int descriptor_, at_ = 0, filled_ = 0;
    unsigned frame_ = 0, left_ = 0;
    uint64_t look_ = 0;
    unsigned char buffer_[256];
};

// What the board sends, bit by bit from its tx. A byte that nobody takes is lost, as on a real line.
class Receiver {
public:
    explicit Receiver(int descriptor) : descriptor_(descriptor) {}

    void take(bool level) {
        if (!busy_) {
            busy_ = !level;      // the start bit's first cycle
            age_ = frame_ = 0;
            return;
        }
        // In the middle of each bit: of the start bit, of 8 data bits, of the stop bit.
        if (++age_ % BIT_CYCLES != BIT_CYCLES / 2) return;
        const unsigned bit = age_ / BIT_CYCLES;
        if (bit < FRAME_BITS - 1) {
            frame_ |= unsigned(level) << bit;
            return;
        }
        const unsigned char byte = (unsigned char)(frame_ >> 1);
        if (write(descriptor_, &byte, 1) != 1 && errno != EAGAIN) std::perror("line");
        busy_ = false;
    }

    bool idle() const { return !busy_; }

private:
    int descriptor_;
    bool busy_ = false;
    unsigned frame_ = 0, age_ = 0;
};

int main(int argc, char** argv) {
    if (argc < 2) return 2;
    const int line = std::atoi(argv[1]);
    fcntl(line, F_SETFL, fcntl(line, F_GETFL) | O_NONBLOCK);
    std::signal(SIGUSR1, [](int) { pressed = 1; });
    std::signal(SIGUSR2, [](int) { starved = 1; });
    std::signal(SIGTERM, [](int) { ended = 1; });

    VerilatedContext context;
    context.commandArgs(argc, argv);
    Vunit top{&context};
    Sender sender(line);
    Receiver receiver(line);
    int reset = RESET_CYCLES, starve = 0;
    uint64_t cycle = 0, active = 0;
    for (; !ended && !context.gotFinish(); ++cycle) {
        if (pressed) {
            pressed = 0;
            reset = RESET_CYCLES;
        }
        if (starved) {
            starved = 0;
            starve = STARVED_CYCLES;
        }
        top.rst = reset > 0;
        if (reset > 0) --reset;
#ifndef NO_SDRAM
        top.starve = starve > 0;
#endif
        if (starve > 0) --starve;
        top.rx = sender.level(cycle);
        top.clk = 0;
        top.eval();
        top.clk = 1;
        top.eval();
        receiver.take(top.tx);
        if (!sender.idle() || !receiver.idle() || (top.leds & 1)) active = cycle;
        if (cycle - active > IDLE_CYCLES && cycle % LOOK_CYCLES == 0) {
            pollfd waiting{line, POLLIN, 0};
            poll(&waiting, 1, 5);
        }
    }
    std::printf("cycles %llu\n", (unsigned long long)cycle);
    top.final();
    return 0;
}
