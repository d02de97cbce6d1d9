# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""An asyncio server with threads and multiprocessing: a pool, a lock, a queue, shared values and memory of the name of nobody."""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import multiprocessing
import queue
import sys
import threading

ROUNDS, PAGES = 50, 64


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def count(lock, shared, asks, answers, pages):
    """Answer what is asked; add up, under the lock that all processes share, in the memory that they share."""
    for text in iter(asks.get, None):
        with lock:
            for index in range(len(shared)):
                shared[index] += 1
            pages[0] = (pages[0] + 1) % 256
        answers.put((text, digest(text)))


class Server:
    def __init__(self):
        context = multiprocessing.get_context("fork")
        self.lock = context.Lock()
        self.shared = context.Array("q", 100, lock=False)
        self.pages = mmap.mmap(-1, PAGES * mmap.PAGESIZE)
        self.asks, self.answers = context.Queue(), context.Queue()
        common = (self.lock, self.shared, self.asks, self.answers, self.pages)
        self.workers = [context.Process(target=count, args=common, daemon=True) for _number in range(3)]
        for worker in self.workers:
            worker.start()
        self.waiting = {}
        self.inbox = queue.Queue()
        self.sum = self.ticks = self.thread_rounds = self.asked = 0
        self.fault = "ok"

    async def run(self, port):
        self.loop = asyncio.get_running_loop()
        for target in (self.receive, self.spin, self.consume):
            threading.Thread(target=target, daemon=True).start()
        self.ticking = asyncio.create_task(self.tick())
        server = await asyncio.start_server(self.serve, "127.0.0.1", port)
        await server.serve_forever()

    def receive(self):
        while True:
            text, answer = self.answers.get()
            self.loop.call_soon_threadsafe(self.waiting.pop(text).set_result, answer)

    def spin(self):
        for number in range(1 << 62):
            self.inbox.put(number)
            self.thread_rounds += 1
            threading.Event().wait(0.001)

    def consume(self):
        for number in range(1 << 62):
            if self.inbox.get() != number:
                self.fault = f"message {number} is lost"

    async def tick(self):
        while True:
            self.ticks += 1
            await asyncio.sleep(0.005)

    async def work(self):
        text, self.asked = f"{self.asked}".rjust(3000, "x"), self.asked + 1
        self.waiting[text] = self.loop.create_future()
        future = self.waiting[text]
        self.asks.put(text)
        return "done" if await future == digest(text) else "wrong"

    async def check(self):
        before = self.ticks, self.thread_rounds
        while self.ticks == before[0] or self.thread_rounds == before[1]:
            await asyncio.sleep(0.001)
        with self.lock:
            values = set(self.shared)
            page = self.pages[0]
        if len(values) != 1 or values.pop() % 256 != page:
            return "the processes do not share their memory"
        return self.fault if all(worker.is_alive() for worker in self.workers) else "a worker has ended"

    async def serve(self, reader, writer):
        try:
            path = (await reader.readline()).decode().split()[1]
            while (await reader.readline()).strip():
                pass
            name, _mark, number = path.partition("?")
            if name == "/add":
                self.sum += int(number)
                body = "ok"
            else:
                body = str(self.sum) if name == "/sum" else await (self.check() if name == "/check" else self.work())
            writer.write(f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            await writer.drain()
        except (OSError, IndexError):
            return  # the client is gone
        finally:
            writer.close()


if __name__ == "__main__":
    asyncio.run(Server().run(int(sys.argv[1])))
