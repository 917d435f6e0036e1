//! Writes erofs images: uncompressed, block size 4096, extended inodes. Linux mounts them since 5.15.
//!
//! An image is built in one pass, from a stream: file contents go to the image as they come, everything else is kept
//! in a [`Tree`] and follows at the end. Nothing is unpacked to the host's file system, so a name, a link or a device
//! in a layer is only ever data. Not here: what a layer's tar archive means ([`crate::images::layer`]).
//!
//! ```text
//! block 0    superblock, at byte 1024
//! block 1    contents of files, each from a block's start; holes of 64 KiB and more are left out
//!            contents of directories that are larger than a block
//! meta       inodes, each with its attributes and, where it fits into the block, its contents
//! ```
//!
//! The same calls give the same bytes. The format: Linux, `fs/erofs/erofs_fs.h` and
//! `Documentation/filesystems/erofs.rst`.

mod contents;
mod directory;
mod format;
mod image;
#[cfg(any(test, feature = "testing"))]
pub mod read;
mod tree;
mod xattrs;

pub use contents::{Contents, ContentsWriter};
pub use format::NAME_MAX;
pub use image::write;
pub use tree::{Attributes, Device, InodeId, Node, Tree, is_name};
pub use xattrs::{Xattrs, XattrsError};
