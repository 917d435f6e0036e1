//! OCI images: layers, made file systems that a guest can mount.

pub mod digest;
pub mod erofs;
pub mod layer;
pub mod tar;
