// Copyright (c) 2026, Stillframe contributors
// GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
// SPDX-License-Identifier: GPL-2.0-or-later
// An HTTP server with a heap that it checks, worker threads, timers and code that the compiler has optimised.
"use strict";
const http = require("http");
const crypto = require("crypto");
const { Worker, isMainThread, parentPort, workerData } = require("worker_threads");

if (!isMainThread) {
  const counts = new Int32Array(workerData);
  parentPort.on("message", (text) => {
    Atomics.add(counts, 0, 1);
    parentPort.postMessage([text, crypto.createHash("sha256").update(text).digest("hex")]);
  });
} else {
  const shared = new SharedArrayBuffer(64);
  const counts = new Int32Array(shared);
  const workers = [0, 1].map(() => new Worker(__filename, { workerData: shared }));
  const waiting = new Map();
  const kept = new Map();
  let sum = 0, ticks = 0, asked = 0;
  setInterval(() => { ticks += 1; }, 5);
  for (const worker of workers) {
    worker.on("message", ([text, digest]) => { waiting.get(text)(digest); waiting.delete(text); });
  }
  const sign = (number) => crypto.createHash("sha256").update(`entry ${number}`).digest("hex");
  for (let number = 0; number < 20000; number += 1) kept.set(number, sign(number));

  const hot = (limit) => { let total = 0; for (let i = 0; i < limit; i += 1) total = (total * 31 + i) | 0; return total; };
  const expected = hot(100000);

  const check = async () => {
    for (let number = 0; number < 20000; number += 97) if (kept.get(number) !== sign(number)) return `entry ${number} has changed`;
    if (hot(100000) !== expected) return "optimised code computes something else";
    const before = ticks;
    await new Promise((resolve) => { setTimeout(resolve, 30); });
    if (ticks === before) return "the timer has stopped";
    if (Atomics.load(counts, 0) > asked) return "shared memory counts what was not asked";
    return "ok";
  };
  const work = async () => {
    const text = `${asked}`.padStart(2000, "x");
    asked += 1;
    const digest = new Promise((resolve) => { waiting.set(text, resolve); });
    workers[asked % 2].postMessage(text);
    const random = new Promise((resolve) => { crypto.pbkdf2("secret", "salt", 50, 32, "sha256", (error, key) => resolve(key.toString("hex"))); });
    const own = crypto.createHash("sha256").update(text).digest("hex");
    const known = crypto.pbkdf2Sync("secret", "salt", 50, 32, "sha256").toString("hex");
    const garbage = Array.from({ length: 2000 }, (_, at) => ({ at, text: `${at}` }));
    return (await digest) === own && (await random) === known && garbage[1999].text === "1999" ? "done" : "wrong";
  };
  const server = http.createServer(async (request, response) => {
    const [path, number] = request.url.split("?");
    if (path === "/add") { sum += Number(number); response.end("ok"); }
    else if (path === "/sum") response.end(`${sum}`);
    else if (path === "/check") response.end(await check());
    else response.end(await work());
  });
  server.listen(Number(process.argv[2]), "127.0.0.1");
}
