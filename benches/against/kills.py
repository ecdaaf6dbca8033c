"""A transfer that is killed at ten random moments, through a proxy that counts what comes to the client.

Moments are bytes that came, not times: a fixed seed draws them from the bytes of an undisturbed run. The proxy is paced,
as a network is: on an endless loopback a kill would cost whatever the kernel's buffers hold, which no program decides.
"""
import json, os, random, signal, socket, subprocess, sys, threading, time
from pathlib import Path

PIECE = 16 << 10
QUEUE = 64 << 10


class Proxy:
    """Forwards connections to `port`, `rate` bytes a second; calls `due()` as soon as `mark` bytes went to clients."""

    def __init__(self, port, rate):
        self.to, self.rate, self.lock = port, rate, threading.Lock()
        self.came, self.late, self.mark, self.due = 0, 0, None, None
        self.dead = False
        self.next_at = 0.0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.socket()
            # What waits in here is on no wire.
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE)
            try:
                server.connect(("127.0.0.1", self.to))
            except OSError:
                client.close()
                continue
            for ends in ((client, server, False), (server, client, True)):
                threading.Thread(target=self.forward, args=ends, daemon=True).start()

    def forward(self, source, sink, counted):
        try:
            while piece := source.recv(PIECE):
                if counted:
                    self.pace(len(piece))
                sink.sendall(piece)
                if counted:
                    self.count(len(piece))
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def pace(self, size):
        with self.lock:
            now = time.monotonic()
            self.next_at = max(self.next_at, now - 0.01) + size / self.rate
            wait = self.next_at - now
        if wait > 0:
            time.sleep(wait)

    def count(self, size):
        with self.lock:
            self.came += size
            self.late += size if self.dead else 0
            if self.mark is None or self.came < self.mark:
                return
            self.mark, due = None, self.due
        due()

    def at(self, mark, due):
        with self.lock:
            self.mark, self.due = mark, due

    def take(self):
        """What came since it was asked for the last time, and how much of it after the client was dead."""
        time.sleep(0.05)
        with self.lock:
            came, self.came, self.late, self.mark = (self.came, self.late), 0, 0, None
        return came

    def close(self):
        self.listener.close()


def stdio_servers(store):
    """Processes that serve `store` through a pipe."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"--stdio" in words and str(store).encode() in words and words[0].endswith(b"floe"):
                found.append(int(entry.name))
    return found


def transfer(command, proxy, marks, victim, revive):
    """Runs `command` to its end, killed at each of `marks`; returns how often that was and the last report."""
    kills, marks = 0, list(marks)
    while True:
        # What ssh still takes of the last connection comes before the next begins.
        time.sleep(0.3 if proxy.dead else 0)
        proxy.dead = False
        with subprocess.Popen([*map(str, command), "--json"], stdout=subprocess.PIPE, text=True) as child:
            def strike():
                nonlocal kills
                kills += 1
                if victim == "client":
                    child.kill()
                    proxy.dead = True
                else:
                    revive()
                    if marks:
                        proxy.at(marks.pop(0), strike)
            if marks and (victim == "client" or kills == 0):
                proxy.at(marks.pop(0), strike)
            out = child.stdout.read()
        if child.returncode == 0:
            return kills, json.loads(out.strip().splitlines()[-1])
        if child.returncode != -signal.SIGKILL:
            sys.exit(f"failed ({child.returncode}): {out}")


def kills(bench, label, old, new, scheme, rate, count=10):
    """Ten kills of a first sync and of an update, of the client and of the server."""
    import shutil, tempfile
    place = Path(tempfile.mkdtemp(dir=bench.disk))
    store = place / "store"
    for tree, name in ((old, "a@old"), (new, "a@new")):
        bench.publish(tree, store, name)
    state = {}

    def start():
        # The port must stay the same, so the first one that was free is kept.
        server = bench.serve(store) if scheme == "http" else bench.ssh(place)
        if "port" in state:
            server.command = [f"127.0.0.1:{state['port']}" if str(word).startswith("127.0.0.1:") else word
                              for word in server.command]
            server.port = state["port"]
        state["port"], state["server"] = server.port, server
        server.__enter__()
        return server

    def revive():
        if scheme == "http":
            state["server"].child.kill()
            state["server"].child.wait()
            start()
        else:
            for pid in stdio_servers(store):
                os.kill(pid, signal.SIGKILL)

    server = start()
    proxy = Proxy(server.port, rate)
    url = server.url.replace(f":{server.port}", f":{proxy.port}")
    dice = random.Random(11)
    try:
        for what, name, tree in (("fresh", "a@old", old), ("update", "a@new", new)):
            base = place / "base"
            if what == "update":
                bench.sync(store_url(server, proxy, url), "a@old", base)

            def begin():
                # Never the one before, removed: ext4 is slow to make files where many went a moment ago.
                state["turn"] = state.get("turn", 0) + 1
                replica = place / f"replica-{state['turn']}"
                if what == "update":
                    shutil.copytree(base, replica, symlinks=True)
                proxy.take()
                return replica, [bench.floe, "sync", url, name, replica, "--retries", "20"]
            _, command = begin()
            _, report = transfer(command, proxy, [], "nobody", None)
            whole, _ = proxy.take()
            for victim in ("client", "server"):
                marks = sorted(dice.randrange(whole) for _ in range(count))
                replica, command = begin()
                start_s = time.perf_counter()
                struck, report = transfer(command, proxy, marks, victim, revive)
                seconds, (came, late) = time.perf_counter() - start_s, proxy.take()
                same = subprocess.run(["diff", "-r", "--exclude=.floe", tree, replica]).returncode == 0
                if not same:
                    sys.exit(f"{label}: {what} differs")
                units = (came - late - whole) / (2 << 20)
                tail = f" besides {late} that came when it was dead" if late else ""
                bench.record(f"kills, {label}, {scheme}", f"{what}, {victim} killed", 0, seconds, 0, kills=struck, whole=whole,
                             came=came, late=late, marks=marks, rate=rate)
                bench.say(f"{label}, {scheme}, {rate/1e6:.0f} MB/s, {what}, {victim} killed {struck} times: {whole} bytes undisturbed, "
                          f"{came} in all, {came - late - whole:+} = {units:.2f} units of 2 MiB{tail}, diff -r silent; aim: at most 1.00")
    finally:
        proxy.close()
        state["server"].__exit__()
        shutil.rmtree(place)


def store_url(server, proxy, url):
    """The same store, past the proxy."""
    return url.replace(f":{proxy.port}", f":{server.port}")
