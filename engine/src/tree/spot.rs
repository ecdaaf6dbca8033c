//! What is at a path: its kind, its mode, and on which mount it is.

use std::os::fd::AsFd;

use rustix::fs::{FileType, Stat};

/// What is at a path, without following a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Symlink,
    Dir,
    Other,
}

pub(super) fn kind_of(stat: &Stat) -> Kind {
    kind_from(FileType::from_raw_mode(stat.st_mode))
}

pub(super) fn kind_from(file_type: FileType) -> Kind {
    match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Symlink => Kind::Symlink,
        FileType::Directory => Kind::Dir,
        _ => Kind::Other,
    }
}

/// The nine permission bits.
pub(super) fn mode_of(stat: &Stat) -> u16 {
    (stat.st_mode & 0o777) as u16
}

/// What is at a path, and whether it is in reach.
pub(super) struct Spot {
    pub(super) stat: Stat,
    /// On the replica's own mount: only there can names be moved, and what is not may be the root of another mount.
    pub(super) within: bool,
}

impl Spot {
    pub(super) fn kind(&self) -> Kind {
        kind_of(&self.stat)
    }
}

/// Which mount something is on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mount {
    device: rustix::fs::Dev,
    dir: bool,
    // Where the system tells it.
    id: Option<u64>,
}

impl Mount {
    #[cfg_attr(not(any(target_os = "linux", target_os = "android")), allow(unused_variables))]
    pub(super) fn of(parent: impl AsFd, name: &str, stat: &Stat) -> Mount {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let id = {
            use rustix::fs::{AtFlags, StatxFlags};
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
            let told = rustix::fs::statx(parent, name, flags, StatxFlags::MNT_ID).ok();
            told.filter(|told| told.stx_mask & StatxFlags::MNT_ID.bits() != 0).map(|told| told.stx_mnt_id)
        };
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let id = None;
        Mount { device: stat.st_dev as _, dir: kind_of(stat) == Kind::Dir, id }
    }

    /// True if it is the same mount. The device of a file says nothing where file systems are laid over each other;
    /// that of a directory does, and also differs between the parts of a file system that names cannot move across.
    pub(super) fn is_within(&self, root: &Mount) -> bool {
        let known = self.id.is_some() && root.id.is_some();
        (!known || self.id == root.id) && (!self.dir && known || self.device == root.device)
    }
}
