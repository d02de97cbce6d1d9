// Copyright (c) 2026, Stillframe contributors
// GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
// SPDX-License-Identifier: GPL-2.0-or-later
// 1,000 threads: most wait on condition variables and pass a token round, some compute, all have values of their own to check.
// It answers on the named pipes DIRECTORY/ask and DIRECTORY/answer, as the programs of tests/programs do.
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <vector>

constexpr int THREADS = 1000, BUSY = 4, RING = THREADS - BUSY - 1;

static std::atomic<const char *> fault{"ok"};
static std::atomic<uint64_t> rounds{0}, computed{0};

struct Seat {
    std::mutex mutex;
    std::condition_variable arrival;
    bool token = false;
};

static std::vector<std::unique_ptr<Seat>> seats;
thread_local uint64_t own[16];

static void remember(int index) {
    for (int at = 0; at < 16; at++) own[at] = index * 1000003ull + at;
}

static void check_own(int index, pid_t tid) {
    for (int at = 0; at < 16; at++)
        if (own[at] != index * 1000003ull + at) fault = "a thread has lost its own values";
    if (tid != syscall(SYS_gettid)) fault = "a thread has another number";
}

static void pass_on(int index) {
    pid_t tid = syscall(SYS_gettid);
    remember(index);
    for (;;) {
        Seat &seat = *seats[index];
        {
            std::unique_lock<std::mutex> held(seat.mutex);
            seat.arrival.wait(held, [&] { return seat.token; });
            seat.token = false;
        }
        check_own(index, tid);
        Seat &next = *seats[(index + 1) % RING];
        {
            std::lock_guard<std::mutex> held(next.mutex);
            if (next.token) fault = "there are two tokens";
            next.token = true;
        }
        next.arrival.notify_one();
        if (index == 0) rounds++;
    }
}

static void compute(int index) {
    pid_t tid = syscall(SYS_gettid);
    remember(index);
    for (;;) {
        double sum = 0;
        for (int at = 1; at <= 2000; at++) sum += 1.0 / at;
        if (sum < 8.1783 || sum > 8.1784) fault = "a sum is wrong";
        check_own(index, tid);
        computed++;
        usleep(200);
    }
}

static const char *check() {
    uint64_t before = rounds, sums = computed;
    while (rounds == before || computed == sums) usleep(500);
    return fault;
}

int main(int, char **arguments) {
    std::string directory = arguments[1];
    int asks = open((directory + "/ask").c_str(), O_RDWR), answers = open((directory + "/answer").c_str(), O_RDWR);
    for (int index = 0; index < RING; index++) seats.push_back(std::make_unique<Seat>());
    for (int index = 0; index < RING; index++) std::thread(pass_on, index).detach();
    for (int index = 0; index < BUSY; index++) std::thread(compute, RING + index).detach();
    {
        std::lock_guard<std::mutex> held(seats[0]->mutex);
        seats[0]->token = true;
    }
    seats[0]->arrival.notify_one();
    uint64_t number = 0;
    char question[64];
    const char *answer = "ready";
    for (;;) {
        std::string line = std::string(answer) + "\n";
        if (write(answers, line.data(), line.size()) < 0) return 1;
        ssize_t length = read(asks, question, sizeof question - 1);
        question[length > 0 ? length : 0] = 0;
        static char text[32];
        if (!strncmp(question, "add", 3)) {
            number += strtoull(question + 3, nullptr, 10);
            answer = "ok";
        } else if (!strncmp(question, "sum", 3)) {
            snprintf(text, sizeof text, "%llu", (unsigned long long)number);
            answer = text;
        } else {
            answer = check();
        }
    }
}
