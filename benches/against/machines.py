#!/usr/bin/env python3
"""Measures sync between machines over loopback beside rsync's daemon and nginx, in one run, interleaved.

Usage: machines.py --floe BIN --out DIR [--runs 5] [--tmpfs /dev/shm] [--disk DIR]
                   [--pair LABEL OLD NEW ...] [--only fresh pairs unchanged edit stream clients memory ssh kills]
                   [--rate MB ...]

Without --pair two published versions of PyPI `panda3d` are fetched with pip and two of npm `monaco-editor` with npm.
Writes raw.csv (one row a run), summary.md and machine.txt into --out. Needs rsync, curl, nginx, taskset, diff; sshd for
the part `ssh`. A part whose peer is missing is named and left out.
"""
import argparse, getpass, json, os, shutil, socket, subprocess, sys, tempfile, time, urllib.request
from pathlib import Path

from foundation import Bench, many_files, monaco, panda3d, random_file
from kills import kills


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    sys.exit(f"nothing listens on port {port}")


class Server:
    """A child process that listens on a port, for as long as the block lasts."""

    def __init__(self, command, port, **kwargs):
        self.command, self.port, self.kwargs = command, port, kwargs

    def __enter__(self):
        self.child = subprocess.Popen(list(map(str, self.command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                      **self.kwargs)
        wait_for(self.port)
        return self

    def peak_mb(self):
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024

    def __exit__(self, *_):
        self.child.terminate()
        self.child.wait(timeout=60)


class Machines(Bench):
    def has(self, program):
        found = shutil.which(program)
        if not found:
            self.say(f"left out: {program} is not installed")
        return bool(found)

    def serve(self, store, *more, before=()):
        port = free_port()
        server = Server([*before, self.floe, "serve", "--create", store, "--listen", f"127.0.0.1:{port}", *more], port)
        server.url = f"http://127.0.0.1:{port}"
        return server

    def rsyncd(self, module, place):
        port = free_port()
        (place / "rsyncd.conf").write_text(f"use chroot = no\nport = {port}\naddress = 127.0.0.1\n[m]\npath = {module}\n"
                                           f"read only = yes\n" + ("uid = root\ngid = root\n" if os.getuid() == 0 else ""))
        server = Server(["rsync", "--daemon", "--no-detach", f"--config={place}/rsyncd.conf"], port)
        server.url = f"rsync://127.0.0.1:{port}/m/"
        return server

    def version_of(self, store, name):
        out = subprocess.run([self.floe, "log", "--store", str(store), "--json"], capture_output=True, text=True, check=True)
        rows = map(json.loads, out.stdout.splitlines())
        return next(row["version"] for row in rows if row.get("name") == name)

    # -- the rows ------------------------------------------------------------------------------------

    def fresh(self, label, old, new, where, fast):
        """Nothing -> old -> new from a server, beside `rsync -a` from its daemon."""
        place = Path(tempfile.mkdtemp(dir=where))
        store, served = place / "store", place / "served"
        for tree, name in ((old, "a@old"), (new, "a@new")):
            self.publish(tree, store, name, "--level", fast)
        shutil.copytree(old, place / "old", symlinks=True)
        shutil.copytree(new, place / "new", symlinks=True)
        served.symlink_to("old")
        with self.serve(store) as floe, self.rsyncd(f"{served}/", place) as rsync:
            for i in range(self.args.runs):
                for name in ("ours", "rsync-a", "rsync-a--fsync"):
                    shutil.rmtree(place / name, ignore_errors=True)
                for step, tree in (("fresh", "old"), ("update", "new")):
                    served.unlink()
                    served.symlink_to(tree)
                    for peer, durable in (("rsync -a", []), ("rsync -a --fsync", ["--fsync"])):
                        self.record(label, f"{peer}, {step}", i, *self.must(
                            ["rsync", "-a", "--delete", *durable, rsync.url, f"{place}/{peer.replace(' ', '')}/"]))
                    seconds, memory, done = self.reported("sync", floe.url, f"a@{tree}", place / "ours")
                    self.record(label, f"floe, {step}", i, seconds, memory, **done)
                    same = subprocess.run(["diff", "-r", "--exclude=.floe", place / tree, place / "ours"]).returncode == 0
                    if not same:
                        sys.exit(f"{label}: {step} differs")
        for step in ("fresh", "update"):
            ours = self.median(label, f"floe, {step}")
            for peer in ("rsync -a", "rsync -a --fsync"):
                theirs = self.median(label, f"{peer}, {step}")
                self.say(f"{label}, {step}: floe (always durable) {ours:.3f} s, {peer} {theirs:.3f} s: {theirs/ours:.2f} times its speed; "
                         f"aim: at least 1.00")
        shutil.rmtree(place)

    def pair(self, label, old, new, scheme="http"):
        """A real pair, published and synced over the network, both ways, compared with `diff -r`."""
        place = Path(tempfile.mkdtemp(dir=self.disk))
        with (self.serve(place / "store") if scheme == "http" else self.ssh(place)) as server:
            for i, (tree, name) in enumerate(((old, "a@old"), (new, "a@new"))):
                seconds, memory, done = self.reported("publish", tree, "--store", server.url, "--name", name)
                self.record(f"{label}, {scheme}", f"publish {name}", i, seconds, memory, **done)
                self.say(f"{label}, {scheme}, publish {name}: {done['chunks_new']} new chunks, {done['bytes_stored']} bytes stored, "
                         f"{seconds:.2f} s, peak {memory:.0f} MB")
            for i, (tree, name) in enumerate(((old, "a@old"), (new, "a@new"), (old, "a@old"), (old, "a@old"))):
                seconds, memory, done = self.reported("sync", server.url, name, place / "replica")
                same = subprocess.run(["diff", "-r", "--exclude=.floe", tree, place / "replica"]).returncode == 0
                self.record(f"{label}, {scheme}", f"sync to {name}", i, seconds, memory, same=same, **done)
                self.say(f"{label}, {scheme}, sync to {name}: fetched {done['bytes_fetched']} bytes in {done['requests']} requests, "
                         f"written {done['bytes_written']}, {seconds:.2f} s, peak {memory:.0f} MB, diff -r {'silent' if same else 'DIFFERS'}")
        shutil.rmtree(place)

    def ssh(self, place):
        """A throw-away sshd on loopback, and an `ssh` command that trusts it."""
        port = free_port()
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{place}/{key}"], check=True)
        shutil.copy(place / "user.pub", place / "authorized")
        (place / "sshd.conf").write_text(f"Port {port}\nListenAddress 127.0.0.1\nHostKey {place}/host\nPidFile none\n"
                                         f"AuthorizedKeysFile {place}/authorized\nStrictModes no\nPasswordAuthentication no\n"
                                         f"SetEnv PATH={Path(self.floe).resolve().parent}:/usr/bin:/bin\n")
        Path("/run/sshd").mkdir(exist_ok=True)
        wrapper = place / "ssh"
        wrapper.write_text(f"#!/bin/sh\nexec /usr/bin/ssh -i {place}/user -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "
                           f"-o StrictHostKeyChecking=no \"$@\"\n")
        wrapper.chmod(0o755)
        os.environ["FLOE_SSH"] = str(wrapper)
        server = Server(["/usr/sbin/sshd", "-D", "-f", f"{place}/sshd.conf"], port)
        server.url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{place}/store"
        return server

    def unchanged(self, tree):
        """What a sync costs that finds nothing to do."""
        place = Path(tempfile.mkdtemp(dir=self.disk))
        self.publish(tree, place / "store", "a@1")
        with self.serve(place / "store") as server:
            self.sync(server.url, "a@1", place / "replica")
            seconds, memory, done = self.reported("sync", server.url, "a@1", place / "replica")
            self.record("unchanged", "floe sync", 0, seconds, memory, **done)
            self.say(f"sync that finds nothing to do: {done['requests']} requests, {done['bytes_fetched']} bytes, {seconds*1e3:.0f} ms; "
                     f"aim: at most 2 and 2048")
        shutil.rmtree(place)

    def edit(self):
        """10 KB of noise in place of one of 200 000 files; only its own bytes should move."""
        place = Path(tempfile.mkdtemp(dir=self.disk))
        tree = many_files(place, 200_000, 3)
        random_file(tree / "big", 64 << 20, seed=3)
        self.publish(tree, place / "store", "a@1", "--level", "none")
        self.sync(place / "store", "a@1", place / "replica")
        random_file(tree / "d7" / "e7" / "file-35777.txt", 10_000, seed=4)
        self.publish(tree, place / "store", "a@2", "--level", "none")
        with self.serve(place / "store") as server:
            seconds, memory, done = self.reported("sync", server.url, "a@2", place / "replica")
            self.record("10 KB edit", "floe sync", 0, seconds, memory, **done)
            self.say(f"10 000 new bytes in a tree of 200 001 files: {done['bytes_fetched']} bytes in {done['requests']} requests, "
                     f"{seconds:.2f} s; aim: at most 11 024 and the headers")
        shutil.rmtree(place)

    def stream(self, tree):
        """A server on one core streams uncompressed frames, beside nginx that sends one file of as many bytes."""
        place = Path(tempfile.mkdtemp(dir=self.tmpfs))
        self.publish(tree, place / "store", "a@1", "--level", "none")
        want = self.version_of(place / "store", "a@1")
        body = json.dumps(dict(have=None, want=want, from_unit=0, format=1))
        (place / "www").mkdir()
        port = free_port()
        (place / "nginx.conf").write_text(
            f"daemon off; worker_processes 1; pid {place}/nginx.pid; error_log /dev/null;\nevents {{}}\n"
            f"http {{ access_log off; sendfile on; server {{ listen 127.0.0.1:{port}; root {place}/www; }} }}\n" )
        os.chmod(place, 0o755)
        with self.serve(place / "store", before=("taskset", "-c", "0")) as floe, \
                Server(["taskset", "-c", "0", "nginx", "-c", f"{place}/nginx.conf"], port):
            ours = ["taskset", "-c", "1", "curl", "-sf", "-o", "/dev/null", "-H", "content-type: application/json", "-d", body,
                    f"{floe.url}/v1/update"]
            size = int(subprocess.run(ours[:-1] + ["-w", "%{size_download}", ours[-1]], capture_output=True, check=True).stdout)
            random_file(place / "www" / "file", size, seed=5)
            for i in range(self.args.runs):
                self.record("stream", "floe, one core", i, *self.must(ours))
                self.record("stream", "nginx sendfile, one core", i,
                            *self.must(["taskset", "-c", "1", "curl", "-sf", "-o", "/dev/null", f"http://127.0.0.1:{port}/file"]))
        ours, theirs = self.median("stream", "floe, one core"), self.median("stream", "nginx sendfile, one core")
        self.say(f"one core streams {size} bytes: floe {size/ours/1e6:.0f} MB/s = {theirs/ours:.2f} of nginx sendfile "
                 f"({size/theirs/1e6:.0f} MB/s); aim: 0.50")
        shutil.rmtree(place)

    def clients(self):
        """200 clients at once."""
        place = Path(tempfile.mkdtemp(dir=self.tmpfs))
        (place / "tree").mkdir()
        random_file(place / "tree" / "file", 32 << 20, seed=6)
        self.publish(place / "tree", place / "store", "a@1", "--level", "none")
        body = json.dumps(dict(have=None, want=self.version_of(place / "store", "a@1"), from_unit=0, format=1))
        with self.serve(place / "store") as server:
            start = time.perf_counter()
            crowd = [subprocess.Popen(["curl", "-sf", "-o", "/dev/null", "-w", "%{size_download}", "-H", "content-type: application/json",
                                       "-d", body, f"{server.url}/v1/update"], stdout=subprocess.PIPE) for _ in range(200)]
            sizes = [int(client.communicate()[0]) for client in crowd]
            served = sum(client.returncode == 0 for client in crowd)
            seconds, peak = time.perf_counter() - start, server.peak_mb()
            self.record("clients", "200 at once", 0, seconds, peak, served=served, bytes=sum(sizes))
            self.say(f"200 clients at once, 32 MiB each: {served} served whole, {sum(sizes)/seconds/1e6:.0f} MB/s in all, server's peak {peak:.0f} MB")
        shutil.rmtree(place)

    def memory(self):
        """Peak memory of both ends while 4 GB move up and down."""
        place = Path(tempfile.mkdtemp(dir=self.disk))
        (place / "tree").mkdir()
        for i in range(16):
            random_file(place / "tree" / f"{i}.bin", 256 << 20, seed=100 + i)
        with self.serve(place / "store") as server:
            seconds, up = self.publish(place / "tree", server.url, "a@1")
            pushed = server.peak_mb()
            self.record("memory", "publish 4 GB", 0, seconds, up, server_mb=pushed)
            shutil.rmtree(place / "tree")
            seconds, down = self.sync(server.url, "a@1", place / "replica")
            self.record("memory", "sync 4 GB", 0, seconds, down, server_mb=server.peak_mb())
            self.say(f"4 GB over HTTP: peak memory publish {up:.0f} MB, server {pushed:.0f} MB; sync {down:.0f} MB, "
                     f"server so far {server.peak_mb():.0f} MB; aim: below 256")
        shutil.rmtree(place)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--floe", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tmpfs", default="/dev/shm")
    parser.add_argument("--disk", default=tempfile.gettempdir())
    parser.add_argument("--pair", nargs=3, action="append", metavar=("LABEL", "OLD", "NEW"))
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--rate", nargs="*", type=float, default=[40.0], help="MB a second of the part `kills`")
    args = parser.parse_args()
    args.shown = [f"--runs {args.runs}", f"--only {' '.join(args.only or ['everything'])}"]
    args.old = args.new = None
    bench = Machines(args)

    def wanted(part):
        return not args.only or part in args.only

    with tempfile.TemporaryDirectory(dir=args.disk) as work:
        args.disk = work
        bench.disk = Path(work)
        pairs = [(label, Path(old), Path(new)) for label, old, new in args.pair or []]
        pairs = pairs or [("panda3d", *panda3d(args)), ("monaco-editor", *monaco(args))]
        label, old, new = pairs[0]
        if wanted("fresh") and bench.has("rsync"):
            bench.fresh(f"{label} on tmpfs", old, new, args.tmpfs, "none")
            bench.fresh(f"{label} on disk", old, new, args.disk, "3")
        for label, old, new in pairs:
            if wanted("pairs"):
                bench.pair(label, old, new)
            if wanted("ssh") and bench.has("/usr/sbin/sshd"):
                bench.pair(label, old, new, "ssh")
            if wanted("kills"):
                for rate in args.rate:
                    for scheme in ("http", "ssh"):
                        if scheme == "http" or bench.has("/usr/sbin/sshd"):
                            kills(bench, label, old, new, scheme, rate * 1e6)
        if wanted("unchanged"):
            bench.unchanged(pairs[0][1])
        if wanted("edit"):
            bench.edit()
        if wanted("stream") and bench.has("nginx") and bench.has("taskset") and bench.has("curl"):
            bench.stream(pairs[0][1])
        if wanted("clients") and bench.has("curl"):
            bench.clients()
        if wanted("memory"):
            bench.memory()
    bench.write("machines.py")


if __name__ == "__main__":
    main()
