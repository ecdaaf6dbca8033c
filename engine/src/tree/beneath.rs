//! Opening what lies below a directory without following a symlink in any component.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, Result};

/// Opens `path` (relative, without `..`) below `root`. A symlink anywhere in it is an error.
pub(super) fn open_beneath(root: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::fs::{ResolveFlags, openat2};
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(&root, path, flags, Mode::empty(), resolve) {
            // Not in this kernel, or hidden by a sandbox.
            Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => {}
            done => return done,
        }
    }
    open_by_steps(&root, path, flags)
}

// One component at a time: the same promise without openat2.
fn open_by_steps(root: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd> {
    let step = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (dirs, last) = path.rsplit_once('/').map_or((None, path), |(dirs, last)| (Some(dirs), last));
    let mut here: Option<OwnedFd> = None;
    for dir in dirs.into_iter().flat_map(|dirs| dirs.split('/')) {
        let next = match &here {
            None => openat(&root, dir, step, Mode::empty()),
            Some(fd) => openat(fd, dir, step, Mode::empty()),
        }?;
        here = Some(next);
    }
    match &here {
        None => openat(&root, last, flags, Mode::empty()),
        Some(fd) => openat(fd, last, flags, Mode::empty()),
    }
}

/// True if the answer means that nothing is at the path, or that a component of it is no directory.
pub(super) fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn no_symlink_is_followed_either_way() {
        let dir = tempfile::TempDir::new().expect("a directory");
        std::fs::create_dir_all(dir.path().join("a/b")).expect("directories");
        std::fs::write(dir.path().join("a/b/f"), "").expect("a file");
        std::os::unix::fs::symlink("a", dir.path().join("s")).expect("a symlink");
        std::os::unix::fs::symlink("f", dir.path().join("a/b/l")).expect("a symlink");
        let root = File::open(dir.path()).expect("the root");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
        let rows =
            [("a/b/f", true), ("a", true), ("s/b/f", false), ("a/b/l", false), ("s", false), ("a/x", false)];
        for (path, want) in rows {
            assert_eq!(open_beneath(root.as_fd(), path, flags).is_ok(), want, "{path}");
            let by_steps = open_by_steps(root.as_fd(), path, flags);
            assert_eq!(by_steps.is_ok(), want, "{path}");
            assert!(by_steps.is_ok() || by_steps.is_err_and(is_gone), "{path}");
        }
    }
}
