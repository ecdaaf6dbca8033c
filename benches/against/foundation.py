#!/usr/bin/env python3
"""Measures publish and sync beside the plain tools, in one run, interleaved.

Usage: foundation.py --floe BIN --hash-tree BIN --out DIR [--runs 7] [--tmpfs /dev/shm] [--disk DIR]
                     [--old DIR --new DIR] [--only NAME ...]

Without --old/--new two published versions of PyPI `panda3d` are fetched with pip and two of npm `monaco-editor` with npm.
Writes raw.csv (one row a run), summary.md and machine.txt into --out. Needs GNU find, tar, zstd, cp, diff.
"""
import argparse, csv, json, os, platform, random, shutil, statistics, subprocess, sys, tempfile, time, zipfile
from pathlib import Path


def run(command, stdout=subprocess.DEVNULL):
    """Runs one command; returns (wall seconds, peak memory in MB of the largest process, exit code)."""
    global bytes_written
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=stdout, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    bytes_written = usage.ru_oublock * 512
    return time.perf_counter() - start, usage.ru_maxrss / 1024, child.returncode


bytes_written = 0  # by the last command, as the kernel counts what reaches a block device


class Bench:
    def __init__(self, args):
        self.args, self.rows, self.lines = args, [], []
        self.floe, self.tmpfs, self.disk = args.floe, Path(args.tmpfs), Path(args.disk)

    def record(self, bench, what, run_index, seconds, memory=0.0, **more):
        self.rows.append(dict(bench=bench, what=what, run=run_index, seconds=f"{seconds:.6f}",
                              peak_mb=f"{memory:.1f}", more=json.dumps(more) if more else ""))

    def median(self, bench, what):
        return statistics.median(float(r["seconds"]) for r in self.rows if r["bench"] == bench and r["what"] == what)

    def say(self, text):
        print(text, flush=True)
        self.lines.append(text)

    def must(self, command, **kwargs):
        seconds, memory, code = run(command, **kwargs)
        if code != 0:
            sys.exit(f"failed ({code}): {' '.join(map(str, command))}")
        return seconds, memory

    def publish(self, tree, store, name, *more):
        return self.must([self.floe, "publish", str(tree), "--store", str(store), "--name", name, "--quiet", *more])

    def sync(self, store, name, tree, *more):
        return self.must([self.floe, "sync", str(store), name, str(tree), "--quiet", *more])

    def report(self, *command):
        out = subprocess.run([self.floe, *map(str, command), "--json"], capture_output=True, text=True, check=True)
        return json.loads(out.stdout.strip().splitlines()[-1])

    # -- the rows ------------------------------------------------------------------------------------

    def publish_speed(self, tree):
        """Uncompressed on tmpfs beside BLAKE3 on one thread; zstd 3 beside `tar | zstd -3 -T2`."""
        size = tree_bytes(tree)
        ram = Path(tempfile.mkdtemp(dir=self.tmpfs))
        source = ram / "source"
        shutil.copytree(tree, source, symlinks=True)
        for i in range(self.args.runs):
            out = subprocess.run([self.args.hash_tree, str(source)], capture_output=True, text=True, check=True)
            self.record("publish", "blake3, one thread", i, float(out.stdout.split()[1]))
            self.record("publish", "blake3, one thread, reading the files", i, float(out.stdout.split()[2]))
            for what, level in (("floe, stored", "none"), ("floe, zstd 3", "3")):
                shutil.rmtree(ram / "store", ignore_errors=True)
                self.record("publish", what, i, *self.publish(source, ram / "store", "a@1", "--level", level))
            pipe = f"tar -C '{source}' -cf - . | zstd -q -3 -T2 -o '{ram}/tar.zst' -f"
            self.record("publish", "tar | zstd -3 -T2", i, *self.must(["sh", "-c", pipe]))
        blake, stored = self.median("publish", "blake3, one thread"), self.median("publish", "floe, stored")
        reading = self.median("publish", "blake3, one thread, reading the files")
        packed, tar = self.median("publish", "floe, zstd 3"), self.median("publish", "tar | zstd -3 -T2")
        self.say(f"publish on tmpfs, {size} bytes: stored {size/stored/1e6:.0f} MB/s = {blake/stored:.2f} of "
                 f"single-thread BLAKE3 from memory ({size/blake/1e6:.0f} MB/s) and {reading/stored:.2f} of the same "
                 f"from files ({size/reading/1e6:.0f} MB/s); aim: 0.25")
        self.say(f"publish on tmpfs, zstd 3: {size/packed/1e6:.0f} MB/s = {tar/packed:.2f} of tar | zstd -3 -T2 "
                 f"({size/tar/1e6:.0f} MB/s); aim: 1.00")
        shutil.rmtree(ram)

    def disk_speed(self, tree):
        """On disk, made durable, beside `cp -r` and `sync`."""
        size = tree_bytes(tree)
        disk = Path(tempfile.mkdtemp(dir=self.disk))
        source = disk / "source"
        shutil.copytree(tree, source, symlinks=True)
        self.publish(source, disk / "from", "a@1", "--level", "none")
        for i in range(self.args.runs):
            for name in ("copy", "store", "tree"):
                shutil.rmtree(disk / name, ignore_errors=True)
            os.sync()
            copy = f"cp -r '{source}' '{disk}/copy' && sync"
            self.record("disk", "cp -r; sync", i, *self.must(["sh", "-c", copy]))
            os.sync()
            self.record("disk", "floe publish", i, *self.publish(source, disk / "store", "a@1", "--level", "none"))
            os.sync()
            self.record("disk", "floe sync", i, *self.sync(disk / "from", "a@1", disk / "tree"))
        copy = self.median("disk", "cp -r; sync")
        for what in ("floe publish", "floe sync"):
            ours = self.median("disk", what)
            self.say(f"{what} on disk, {size} bytes: {size/ours/1e6:.0f} MB/s = {copy/ours:.2f} of cp -r and sync "
                     f"({size/copy/1e6:.0f} MB/s); aim: 0.60")
        shutil.rmtree(disk)

    def unchanged(self, label, tree, where):
        """Publishing and syncing again when nothing changed, beside `find -printf`."""
        place = Path(tempfile.mkdtemp(dir=where))
        self.publish(tree, place / "store", "a@1")
        self.sync(place / "store", "a@1", place / "tree")
        for i in range(self.args.runs * 2):
            self.record(label, "find", i, *self.must(["find", str(tree), "-printf", "%s %T@ %i\n"]))
            self.record(label, "floe publish", i, *self.publish(tree, place / "store", "a@1"))
            self.record(label, "floe sync", i, *self.sync(place / "store", "a@1", place / "tree"))
        find = self.median(label, "find")
        for what in ("floe publish", "floe sync"):
            ours = self.median(label, what)
            self.say(f"{label}: {what} again {ours*1e3:.1f} ms = {ours/find:.2f} of find ({find*1e3:.1f} ms); "
                     f"aim for publish: at most 3.00")
        shutil.rmtree(place)

    def memory(self, label, tree):
        """Peak memory of a first publish and a first sync."""
        place = Path(tempfile.mkdtemp(dir=self.disk))
        for i, level in enumerate(("none", "3")):
            shutil.rmtree(place)
            place.mkdir()
            seconds, up = self.publish(tree, place / "store", "a@1", "--level", level)
            self.record(label, f"floe publish, level {level}", i, seconds, up)
            seconds, down = self.sync(place / "store", "a@1", place / "tree")
            self.record(label, f"floe sync, level {level}", i, seconds, down)
            self.say(f"{label}, level {level}: peak memory publish {up:.0f} MB, sync {down:.0f} MB; aim: below 400")
        shutil.rmtree(place)

    def pair(self, label, old, new):
        """A real pair of versions: publish both, then nothing -> old -> new -> old, each compared with `diff -r`."""
        place = Path(tempfile.mkdtemp(dir=self.disk))
        store, replica = place / "store", place / "replica"
        for i, (tree, name) in enumerate(((old, "a@old"), (new, "a@new"))):
            seconds, memory, done = self.reported("publish", tree, "--store", store, "--name", name)
            self.record(label, f"publish {name}", i, seconds, memory, **done)
            self.say(f"{label}, publish {name}: {done['files']} files, {done['bytes']} bytes, {done['chunks']} chunks, new "
                     f"{done['chunks_new']} ({done['bytes_new']} bytes, stored {done['bytes_stored']}), "
                     f"{seconds:.2f} s, peak {memory:.0f} MB")
        for have, want in (("a@old", "a@new"), ("a@new", "a@old")):
            diff = self.report("diff", have, want, "--store", store)
            self.record(label, f"diff {have} {want}", 0, diff["elapsed_ms"] / 1e3, **diff)
            self.say(f"{label}, diff {have} {want}: {diff['chunks_missing']} chunks missing ({diff['bytes_missing']} bytes), "
                     f"update {diff['bytes_update']} bytes")
        for i, (tree, name) in enumerate(((old, "a@old"), (new, "a@new"), (old, "a@old"))):
            seconds, memory, done = self.reported("sync", store, name, replica)
            same = subprocess.run(["diff", "-r", "--exclude=.floe", str(tree), str(replica)]).returncode == 0
            self.record(label, f"sync to {name}", i, seconds, memory, same=same, **done)
            self.say(f"{label}, sync to {name}: fetched {done['bytes_fetched']} bytes in {done['requests']} requests, reused "
                     f"{done['bytes_reused']}, written {done['bytes_written']}, {seconds:.2f} s, peak {memory:.0f} MB, "
                     f"diff -r {'silent' if same else 'DIFFERS'}")
        shutil.rmtree(place)

    def peers(self, label, old, new):
        """Bytes that other tools move for the same update, where they are installed: rsync, casync, zstd --patch-from."""
        place = Path(tempfile.mkdtemp(dir=self.disk))
        if shutil.which("rsync"):
            shutil.copytree(old, place / "copy", symlinks=True)
            command = ["rsync", "-a", "--checksum", "--no-whole-file", "-z", "--zc=zstd", "--delete", "--stats"]
            start = time.perf_counter()
            stats = subprocess.run(command + [f"{new}/", f"{place}/copy/"], capture_output=True, text=True, check=True).stdout
            moved = sum(int(line.split(":")[1].replace(",", "").replace(".", "")) for line in stats.splitlines()
                        if line.startswith(("Total bytes sent", "Total bytes received")))
            self.record(label, "rsync -z", 0, time.perf_counter() - start, moved=moved)
            self.say(f"{label}: rsync -z moves {moved} bytes")
        if shutil.which("casync"):
            for tree, index in ((old, "old"), (new, "new")):
                before = tree_bytes(place)
                start = time.perf_counter()
                subprocess.run(["casync", "make", f"--store={place}/store.castr", f"{place}/{index}.caidx", str(tree)],
                               check=True, stdout=subprocess.DEVNULL)
                moved = tree_bytes(place) - before
                self.record(label, f"casync make {index}", 0, time.perf_counter() - start, moved=moved)
            self.say(f"{label}: casync moves {moved} bytes (new chunks and index)")
        for tree, tar in ((old, "old.tar"), (new, "new.tar")):
            subprocess.run(["tar", "--sort=name", "--mtime=@0", "-C", str(tree), "-cf", str(place / tar), "."], check=True)
        patch = ["zstd", "-q", "-3", "--long=30", f"--patch-from={place}/old.tar", f"{place}/new.tar", "-o", f"{place}/patch"]
        seconds, _ = self.must(patch)
        moved = (place / "patch").stat().st_size
        self.record(label, "zstd -3 --patch-from", 0, seconds, moved=moved)
        self.say(f"{label}: zstd -3 --patch-from makes {moved} bytes, for this pair of versions only")
        shutil.rmtree(place)

    def reported(self, *command):
        with tempfile.TemporaryFile("w+") as out:
            seconds, memory = self.must([self.floe, *map(str, command), "--json"], stdout=out)
            out.seek(0)
            return seconds, memory, json.loads(out.read().strip().splitlines()[-1])

    def layout(self, tree):
        """The store on disk: ingest, bytes written for each byte of data, read-back, size. Uncompressed."""
        size = tree_bytes(tree)
        place = Path(tempfile.mkdtemp(dir=self.disk))
        for i in range(self.args.runs):
            shutil.rmtree(place)
            place.mkdir()
            os.sync()
            seconds, memory = self.publish(tree, place / "store", "a@1", "--level", "none")
            written, stored = bytes_written, tree_bytes(place / "store")
            self.record("store layout", "publish", i, seconds, memory, written=written, stored=stored, data=size)
            verify = self.report("verify", place / "store")
            self.record("store layout", "read back and hash", i, verify["elapsed_ms"] / 1e3, data=verify["bytes"])
        ingest, back = self.median("store layout", "publish"), self.median("store layout", "read back and hash")
        self.say(f"store layout, {size} bytes: ingest {size/ingest/1e6:.0f} MB/s, written/data "
                 f"{written/size:.3f}, size/data {stored/size:.3f} (duplicate chunks are kept once), "
                 f"read back and hashed {verify['bytes']/back/1e6:.0f} MB/s")
        shutil.rmtree(place)

    def small_edit(self):
        """Ten bytes changed in a file of 1 GB."""
        place = Path(tempfile.mkdtemp(dir=self.disk))
        big = place / "tree" / "big.bin"
        big.parent.mkdir()
        random_file(big, 1 << 30, seed=7)
        self.publish(big.parent, place / "store", "a@1", "--level", "none")
        with open(big, "r+b") as file:
            file.seek(512 << 20)
            file.write(b"0123456789")
        done = self.report("publish", big.parent, "--store", place / "store", "--name", "a@2", "--level", "none")
        self.record("10-byte edit in 1 GB", "floe publish", 0, done["elapsed_ms"] / 1e3, **done)
        self.say(f"10-byte edit in a 1 GB file: {done['chunks_new']} new chunks, {done['nodes_new']} new nodes; "
                 f"aim: at most 3 and 10")
        shutil.rmtree(place)

    def write(self, script="foundation.py"):
        out = Path(self.args.out)
        out.mkdir(parents=True, exist_ok=True)
        with open(out / "raw.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=["bench", "what", "run", "seconds", "peak_mb", "more"])
            writer.writeheader()
            writer.writerows(self.rows)
        body = ["# Summary", "", "Medians; ratios are of medians of interleaved runs.", ""]
        (out / "summary.md").write_text("\n".join(body + [f"- {line}" for line in self.lines]) + "\n")
        cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
        machine = [f"cpu: {cpu}", f"cores: {os.cpu_count()}", f"kernel: {platform.release()}", f"commit: {commit}",
                   f"runs: {self.args.runs}", f"command: {script} " + " ".join(self.args.shown)]
        (out / "machine.txt").write_text("\n".join(machine) + "\n")


def tree_bytes(tree):
    return sum(p.lstat().st_size for p in Path(tree).rglob("*") if p.is_file() and not p.is_symlink())


def random_file(path, length, seed):
    random_bytes = random.Random(seed)
    with open(path, "wb") as file:
        while length > 0:
            file.write(random_bytes.randbytes(min(length, 1 << 20)))
            length -= 1 << 20


def generated(where, total, seed):
    """Files of 64 KB to 64 MB, half of them compressible."""
    tree, draw = Path(tempfile.mkdtemp(dir=where)), random.Random(seed)
    written, index = 0, 0
    while written < total:
        length = min(1 << draw.randrange(16, 27), total - written)
        path = tree / f"d{index % 17}" / f"f{index}.bin"
        path.parent.mkdir(exist_ok=True)
        with open(path, "wb") as file:
            left = length
            while left > 0:
                block = draw.randbytes(min(left, 1 << 16))
                file.write(block if index % 2 else block[: len(block) // 4] * 4)
                left -= 1 << 16
        written, index = written + length, index + 1
    return tree


def many_files(where, count, seed):
    tree, draw = Path(tempfile.mkdtemp(dir=where)), random.Random(seed)
    for index in range(count):
        folder = tree / f"d{index // 5000}" / f"e{index // 100 % 50}"
        if index % 100 == 0:
            folder.mkdir(parents=True)
        (folder / f"file-{index}.txt").write_bytes(draw.randbytes(draw.randrange(50, 900)))
    return tree


def panda3d(args):
    if args.old and args.new:
        return [Path(args.old), Path(args.new)]
    place, trees = Path(tempfile.mkdtemp(dir=args.disk)), []
    for version in ("1.10.15", "1.10.16"):
        subprocess.run(["pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(place),
                        f"panda3d=={version}"], check=True)
        zipfile.ZipFile(next(place.glob(f"panda3d-{version}-*.whl"))).extractall(place / version)
        trees.append(place / version)
    return trees


def monaco(args):
    place, trees = Path(tempfile.mkdtemp(dir=args.disk)), []
    for version in ("0.56.0", "0.57.0"):
        subprocess.run(["npm", "pack", "--silent", f"monaco-editor@{version}"], cwd=place, check=True,
                       stdout=subprocess.DEVNULL)
        (place / version).mkdir()
        subprocess.run(["tar", "xzf", f"monaco-editor-{version}.tgz", "-C", version], cwd=place, check=True)
        trees.append(place / version)
    return trees


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--floe", required=True)
    parser.add_argument("--hash-tree", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--tmpfs", default="/dev/shm")
    parser.add_argument("--disk", default=tempfile.gettempdir())
    parser.add_argument("--old")
    parser.add_argument("--new")
    parser.add_argument("--only", nargs="*", default=["pairs", "publish", "disk", "layout", "unchanged", "memory", "edit"])
    args = parser.parse_args()
    args.shown = [f"--runs {args.runs}", f"--only {' '.join(args.only)}"]
    bench = Bench(args)
    old, new = panda3d(args)
    if "pairs" in args.only:
        pairs = [("given", old, new)] if args.old else [
            ("panda3d 1.10.15 and 1.10.16", old, new), ("monaco-editor 0.56.0 and 0.57.0", *monaco(args))]
        for pair in pairs:
            bench.pair(*pair)
            bench.peers(*pair)
    if "publish" in args.only:
        bench.publish_speed(new)
    if "disk" in args.only:
        bench.disk_speed(new)
    if "layout" in args.only:
        bench.layout(new)
    if "unchanged" in args.only:
        bench.unchanged("unchanged, real tree", new, args.disk)
        tree = many_files(args.disk, 200_000, 3)
        bench.unchanged("unchanged, 200 000 files", tree, args.disk)
        shutil.rmtree(tree)
    if "memory" in args.only:
        for label, size in (("100 MB", 100 << 20), ("1 GB", 1 << 30), ("4 GB", 4 << 30)):
            tree = generated(args.disk, size, 5)
            bench.memory(label, tree)
            shutil.rmtree(tree)
        tree = many_files(args.disk, 200_000, 3)
        bench.memory("200 000 files", tree)
        shutil.rmtree(tree)
    if "edit" in args.only:
        bench.small_edit()
    bench.write()


if __name__ == "__main__":
    main()
