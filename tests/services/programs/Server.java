// Copyright (c) 2026, Stillframe contributors
// GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
// SPDX-License-Identifier: GPL-2.0-or-later
// An HTTP server with threads that compute, allocate and lock without end, and check what they have computed.
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import java.util.zip.CRC32;

public class Server {
    static final int ENTRIES = 20000;
    static final Map<Integer, byte[]> kept = new ConcurrentHashMap<>();
    static final AtomicLong sum = new AtomicLong(), rounds = new AtomicLong();
    static final AtomicReference<String> fault = new AtomicReference<>("ok");
    static final Object lock = new Object();
    static long left = 1000, right = 1000;

    static byte[] content(int number) {
        byte[] bytes = new byte[200];
        for (int at = 0; at < bytes.length; at++) bytes[at] = (byte) (number * 31 + at * 7);
        return bytes;
    }

    static long checksum(byte[] bytes) {
        CRC32 crc = new CRC32();
        crc.update(bytes);
        return crc.getValue();
    }

    static void compute(int seed) {
        Deque<byte[]> recent = new ArrayDeque<>();
        for (int number = seed; ; number = (number + 7) % ENTRIES) {
            if (checksum(kept.get(number)) != checksum(content(number))) fault.set("entry " + number + " has changed");
            recent.add(content(number));
            if (recent.size() > 500) recent.remove();
            synchronized (lock) {
                if (left + right != 2000) fault.set("the lock does not hold");
                left--;
                right++;
                if (left == 0) { left = 1000; right = 1000; }
            }
            if (rounds.incrementAndGet() % 64 == 0) {
                try { Thread.sleep(1); } catch (InterruptedException unexpected) { fault.set("interrupted"); }
            }
        }
    }

    static String check() throws InterruptedException {
        for (int number = 0; number < ENTRIES; number++)
            if (checksum(kept.get(number)) != checksum(content(number))) return "entry " + number + " has changed";
        long before = rounds.get();
        for (int tries = 0; rounds.get() == before; tries++) {
            if (tries > 5000) return "the threads have stopped";
            Thread.sleep(1);
        }
        return fault.get();
    }

    static void answer(HttpExchange exchange) {
        try (exchange) {
            String path = exchange.getRequestURI().getPath(), query = exchange.getRequestURI().getQuery();
            String body = switch (path) {
                case "/add" -> { sum.addAndGet(Long.parseLong(query)); yield "ok"; }
                case "/sum" -> String.valueOf(sum.get());
                case "/check" -> check();
                default -> "done";
            };
            exchange.sendResponseHeaders(200, body.length());
            exchange.getResponseBody().write(body.getBytes());
        } catch (java.io.IOException gone) {
            return;
        } catch (InterruptedException unexpected) {
            fault.set("interrupted");
        }
    }

    public static void main(String[] arguments) throws Exception {
        for (int number = 0; number < ENTRIES; number++) kept.put(number, content(number));
        for (int thread = 0; thread < 8; thread++) {
            int seed = thread * 1000;
            Thread worker = new Thread(() -> compute(seed));
            worker.setDaemon(true);
            worker.start();
        }
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), Integer.parseInt(arguments[0])), 0);
        server.createContext("/", Server::answer);
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.start();
    }
}
