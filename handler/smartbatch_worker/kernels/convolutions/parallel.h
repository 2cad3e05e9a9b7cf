/* The parts of one piece of work, shared between the calling thread and helpers.
 *
 * Nobody is assigned a part: whoever is free takes the next. A helper that the system does not run just then (its core
 * is another program's) holds nobody up, since the caller does what is left. After its last part a helper looks out for
 * the next piece of work for SPIN_NS, longer than it takes from one layer to the next, and then sleeps: waking it costs
 * more than a layer's share of the work. The threads of a Python executor are woken for every layer, for the
 * interpreter's lock as well as for the work, and two of them often ran on one core in turns.
 */
#pragma once

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

/* Does `part` of what `call` describes; `thread` is 0 … threads - 1, for scratch memory of its own. */
typedef void run_part(const void *call, int64_t part, int thread);

enum { MAX_THREADS = 256, SPIN_NS = 200000 };

static struct {
    /* round | threads - 1 | number of parts | next part, of 8, 8, 24 and 24 bits: taking a part is one compare and
     * swap, that succeeds only if the piece of work is still the one that was looked at. */
    _Atomic uint64_t ticket;
    _Atomic int64_t num_unfinished;
    run_part *run; /* read only by those who have taken a part: until it is finished, they stay */
    const void *call;
    pthread_mutex_t sleep;
    pthread_cond_t has_work, is_finished;
    _Atomic int num_asleep, caller_sleeps;
    int num_helpers;
    atomic_flag is_taken; /* one piece of work at a time */
} team = {.sleep = PTHREAD_MUTEX_INITIALIZER,
          .has_work = PTHREAD_COND_INITIALIZER,
          .is_finished = PTHREAD_COND_INITIALIZER,
          .is_taken = ATOMIC_FLAG_INIT};

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* Whether `thread` may take a part of this ticket. */
static int has_part(uint64_t ticket, int thread) {
    const uint64_t next = ticket & 0xffffff, parts = ticket >> 24 & 0xffffff;
    return next < parts && (uint64_t)thread <= (ticket >> 48 & 0xff);
}

/* Take and do parts until none is left. */
static void do_parts(int thread) {
    uint64_t ticket = atomic_load(&team.ticket);
    while (has_part(ticket, thread)) {
        if (!atomic_compare_exchange_weak(&team.ticket, &ticket, ticket + 1)) continue;
        team.run(team.call, ticket & 0xffffff, thread);
        if (atomic_fetch_sub(&team.num_unfinished, 1) == 1 && atomic_load(&team.caller_sleeps)) {
            pthread_mutex_lock(&team.sleep);
            pthread_cond_signal(&team.is_finished);
            pthread_mutex_unlock(&team.sleep);
        }
        ticket = atomic_load(&team.ticket);
    }
}

static void *help(void *number) {
    const int thread = (int)(intptr_t)number;
    for (;;) {
        do_parts(thread);
        const int64_t until = now_ns() + SPIN_NS;
        while (!has_part(atomic_load(&team.ticket), thread)) {
            if (now_ns() < until) {
                for (int i = 0; i < 16; ++i) pause_briefly();
                continue;
            }
            pthread_mutex_lock(&team.sleep);
            atomic_fetch_add(&team.num_asleep, 1);
            while (!has_part(atomic_load(&team.ticket), thread)) pthread_cond_wait(&team.has_work, &team.sleep);
            atomic_fetch_sub(&team.num_asleep, 1);
            pthread_mutex_unlock(&team.sleep);
        }
    }
    return NULL;
}

/* A forked child has no helpers, and whatever its parent's held, nobody holds. */
static void forget_helpers(void) {
    pthread_mutex_init(&team.sleep, NULL);
    pthread_cond_init(&team.has_work, NULL);
    pthread_cond_init(&team.is_finished, NULL);
    atomic_store(&team.ticket, 0);
    atomic_store(&team.num_asleep, 0);
    atomic_store(&team.caller_sleeps, 0);
    team.num_helpers = 0;
    atomic_flag_clear(&team.is_taken);
}

/* As many as the system gives; they take no signals, which are the program's own threads'. */
static void hire(int wanted) {
    static int is_registered;
    if (!is_registered) is_registered = !pthread_atfork(NULL, NULL, forget_helpers);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (pthread_t helper; team.num_helpers < wanted; ++team.num_helpers) {
        if (pthread_create(&helper, NULL, help, (void *)(intptr_t)(team.num_helpers + 1))) break;
        pthread_detach(helper);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* `run(call, part, thread)` for every part, by up to `threads` threads; returns when all are done. */
static void in_parts(run_part *run, const void *call, int64_t parts, int threads) {
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > parts) threads = (int)parts;
    if (threads <= 1 || parts > 0xffffff || atomic_flag_test_and_set(&team.is_taken)) {
        for (int64_t part = 0; part < parts; ++part) run(call, part, 0);
        return;
    }
    hire(threads - 1);
    team.run = run, team.call = call;
    atomic_store(&team.num_unfinished, parts);
    const uint64_t round = (atomic_load(&team.ticket) >> 56) + 1;
    atomic_store(&team.ticket, round << 56 | (uint64_t)(threads - 1) << 48 | (uint64_t)parts << 24);
    if (atomic_load(&team.num_asleep)) {
        pthread_mutex_lock(&team.sleep);
        pthread_cond_broadcast(&team.has_work);
        pthread_mutex_unlock(&team.sleep);
    }
    do_parts(0);
    const int64_t until = now_ns() + SPIN_NS;
    while (atomic_load(&team.num_unfinished) && now_ns() < until) pause_briefly();
    if (atomic_load(&team.num_unfinished)) { /* a helper was interrupted in its last part: leave it the core */
        pthread_mutex_lock(&team.sleep);
        atomic_store(&team.caller_sleeps, 1);
        while (atomic_load(&team.num_unfinished)) pthread_cond_wait(&team.is_finished, &team.sleep);
        atomic_store(&team.caller_sleeps, 0);
        pthread_mutex_unlock(&team.sleep);
    }
    atomic_flag_clear(&team.is_taken);
}
