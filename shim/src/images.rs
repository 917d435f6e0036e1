//! Root file systems that are images: what the mounts of a snapshotter mean that hands over no directory of the host.
//!
//! | snapshotter | its mounts |
//! |---|---|
//! | blockfile | `ext4` of a file (`loop`) |
//! | devmapper | `ext4` of `/dev/mapper/NAME` |
//! | erofs (containerd 2.2), with a size for what is written | `ext4` of a file, `erofs` of each layer's file, the topmost first, and `format/mkdir/overlay`, whose options name the mounts before it by their numbers |
//!
//! What is in an image is a stranger's: the guest's kernel mounts it, the host's never looks at it. Mounts of other
//! kinds are the host's to carry out ([`crate::mounts`]).

use std::path::{Path, PathBuf};

use containerd_shim_protos::api::Mount;

use crate::error::ShimError;

/// The file systems that snapshotters have in images. A mount of another one that has a device (btrfs: a part of a file
/// system that the host has mounted) is the host's.
const OF_IMAGES: [&str; 5] = ["erofs", "ext4", "ext3", "ext2", "xfs"];

/// How mounts are called that are to be completed from those before them (core/mount/manager in containerd).
const TEMPLATE: &str = "format/";

/// A root file system of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// All images, in the order of the mounts.
    pub images: Vec<Image>,
    /// What becomes of them.
    pub root: Root,
}

/// A file or block device of the host with a file system in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Where it is on the host.
    pub path: PathBuf,
    /// The type of its file system, as the guest's kernel calls it.
    pub kind: String,
    /// Nobody may write to it.
    pub read_only: bool,
    /// The file system's own options.
    pub options: Vec<String>,
}

/// The root file system, by the numbers of the images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// What is in this image.
    Image(usize),
    /// Directories one over the other.
    Overlay {
        /// The image that takes what is written, in its directories `upper` and `work`. Without one nobody can write.
        writable: Option<usize>,
        /// The images below, the topmost first.
        lower: Vec<usize>,
        /// More options of the overlay.
        options: Vec<String>,
    },
}

impl Images {
    /// The root file system that `mounts` describe, if it is one of images.
    pub fn of(mounts: &[Mount]) -> Result<Option<Self>, ShimError> {
        let Some((last, before)) = mounts.split_last() else { return Ok(None) };
        if is_image(last) && before.is_empty() {
            return Ok(Some(Self { images: vec![Image::of(last)?], root: Root::Image(0) }));
        }
        if !before.iter().any(is_image) {
            return Ok(None);
        }
        if let Some(other) = before.iter().find(|mount| !is_image(mount)) {
            return unsupported(
                kind_of(other),
                "beside images the root file system has nothing but their overlay",
            );
        }
        let images: Vec<Image> = before.iter().map(Image::of).collect::<Result<_, _>>()?;
        let root = match last.type_.strip_prefix(TEMPLATE) {
            Some("overlay" | "mkdir/overlay") => overlay(&last.options, &images)?,
            Some("bind") => bound(last, &images)?,
            _ => return unsupported(kind_of(last), "images are put together by an overlay"),
        };
        Ok(Some(Self { images, root }))
    }

    /// How many images are read only, and how many are written to.
    pub fn count(&self) -> (usize, usize) {
        let read_only = self.images.iter().filter(|image| image.read_only).count();
        (read_only, self.images.len() - read_only)
    }
}

/// Whether this is a mount of an image.
fn is_image(mount: &Mount) -> bool {
    let is_bound = mount.options.iter().any(|option| ["bind", "rbind"].contains(&option.as_str()));
    OF_IMAGES.contains(&mount.type_.as_str()) && !is_bound && Path::new(&mount.source).is_absolute()
}

fn kind_of(mount: &Mount) -> String {
    format!("the mount of the type '{}'", mount.type_)
}

fn unsupported<T>(what: String, reason: &'static str) -> Result<T, ShimError> {
    Err(ShimError::Unsupported { what, reason })
}

impl Image {
    fn of(mount: &Mount) -> Result<Self, ShimError> {
        let what = |option: &str| format!("the option '{option}' for the image '{}'", mount.source);
        if !mount.target.is_empty() {
            return unsupported(
                format!("the target '{}' of the image '{}'", mount.target, mount.source),
                "a root file system is one tree",
            );
        }
        let mut image = Self {
            path: PathBuf::from(&mount.source),
            kind: mount.type_.clone(),
            // There is no other erofs.
            read_only: mount.type_ == "erofs",
            options: Vec::new(),
        };
        for option in &mount.options {
            match option.as_str() {
                "ro" => image.read_only = true,
                // Made a disk, an image needs no loop device.
                "rw" | "loop" | "defaults" => {}
                other if other.starts_with("device=") => {
                    return unsupported(
                        what(other),
                        "layers whose metadata is merged are not taken; leave `max_unmerged_layers` of the erofs \
                         snapshotter at 0",
                    );
                }
                other if other.starts_with("X-containerd.dmverity") => {
                    return unsupported(
                        what(other),
                        "the guest checks no hash trees; set `dmverity_mode` of the erofs snapshotter to \"off\"",
                    );
                }
                other if other.starts_with("X-") => {
                    return unsupported(what(other), "nothing here knows what it asks for");
                }
                other => image.options.push(other.to_owned()),
            }
        }
        Ok(image)
    }
}

/// The overlay that these options of a template describe.
fn overlay(all: &[String], images: &[Image]) -> Result<Root, ShimError> {
    let (mut upper, mut work, mut lower, mut options) = (None, None, Vec::new(), Vec::new());
    for option in all {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match key {
            "upperdir" => upper = Some(value),
            "workdir" => work = Some(value),
            "lowerdir" => lower = named(value, images).ok_or_else(|| not_understood(option))?,
            // The guest makes both in any case.
            "X-containerd.mkdir.path" => {
                let path = value.split(':').next().unwrap_or_default();
                let known = ["upper", "work"].iter().any(|name| in_image(path, name, images).is_some());
                known.then_some(()).ok_or_else(|| not_understood(option))?;
            }
            "rw" => {}
            _ => options.push(option.clone()),
        }
    }
    let writable = match (upper, work) {
        (None, None) => None,
        (Some(upper), _) if upper.starts_with('/') => {
            return unsupported(
                format!("an overlay of images below the host's directory '{upper}'"),
                "give the erofs snapshotter a `default_size`, so that what is written is in an image as well",
            );
        }
        (Some(upper), Some(work)) => {
            let image = in_image(upper, "upper", images).ok_or_else(|| not_understood(upper))?;
            if in_image(work, "work", images) != Some(image)
                || images.get(image).is_none_or(|image| image.read_only)
            {
                return Err(not_understood(work));
            }
            Some(image)
        }
        (upper, work) => return Err(not_understood(upper.or(work).unwrap_or_default())),
    };
    if lower.is_empty() || lower.iter().any(|number| Some(*number) == writable) {
        return Err(not_understood("lowerdir"));
    }
    Ok(Root::Overlay { writable, lower, options })
}

/// The image that a template binds, which nobody can write to.
fn bound(mount: &Mount, images: &[Image]) -> Result<Root, ShimError> {
    let known = ["ro", "rbind", "bind"];
    if let Some(option) = mount.options.iter().find(|option| !known.contains(&option.as_str())) {
        return Err(not_understood(option));
    }
    match named(&mount.source, images).as_deref() {
        Some([number]) if images.get(*number).is_some_and(|image| image.read_only) => {
            Ok(Root::Image(*number))
        }
        _ => Err(not_understood(&mount.source)),
    }
}

fn not_understood(words: &str) -> ShimError {
    ShimError::Invalid {
        what: "the mounts of the root file system",
        reason: format!("'{words}' does not name images before it as the erofs snapshotter does"),
    }
}

/// The image in whose directory `name` this path is: `{{ mount 0 }}/upper`.
fn in_image(path: &str, name: &str, images: &[Image]) -> Option<usize> {
    let template = path.strip_suffix(name)?.strip_suffix('/')?;
    match named(template, images)?.as_slice() {
        [number] => Some(*number),
        _ => None,
    }
}

/// The images that `{{ mount 1 }}` or `{{ overlay 1 3 }}` name, in that order.
fn named(template: &str, images: &[Image]) -> Option<Vec<usize>> {
    let words = template.strip_prefix("{{")?.strip_suffix("}}")?;
    let words: Vec<&str> = words.split_whitespace().collect();
    let number = |word: &str| word.parse().ok().filter(|number| *number < images.len());
    Some(match words.as_slice() {
        ["mount", one] => vec![number(one)?],
        ["overlay", first, last] => match (number(first)?, number(last)?) {
            (first, last) if first <= last => (first..=last).collect(),
            (first, last) => (last..=first).rev().collect(),
        },
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            type_: kind.to_owned(),
            source: source.to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..Mount::default()
        }
    }

    fn image(path: &str, kind: &str, read_only: bool, options: &[&str]) -> Image {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Image { path: path.into(), kind: kind.to_owned(), read_only, options }
    }

    /// What the erofs snapshotter of containerd 2.2 gives for two layers, with a size for what is written.
    fn erofs() -> Vec<Mount> {
        vec![
            mount("ext4", "/s/3/rwlayer.img", &["rw", "loop"]),
            mount("erofs", "/s/2/layer.erofs", &["ro", "loop"]),
            mount("erofs", "/s/1/layer.erofs", &["ro", "loop"]),
            mount(
                "format/mkdir/overlay",
                "overlay",
                &[
                    "X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
                    "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
                    "workdir={{ mount 0 }}/work",
                    "upperdir={{ mount 0 }}/upper",
                    "lowerdir={{ overlay 1 2 }}",
                    "index=off",
                ],
            ),
        ]
    }

    #[test]
    fn one_image_is_the_root() {
        let images = Images::of(&[mount("ext4", "/s/1", &["loop", "rw"])]).unwrap().unwrap();
        assert_eq!(images, Images { images: vec![image("/s/1", "ext4", false, &[])], root: Root::Image(0) });
        assert_eq!(images.count(), (0, 1));
        let view = Images::of(&[mount("xfs", "/s/1", &["nouuid", "ro", "loop"])]).unwrap().unwrap();
        assert_eq!(view.images, [image("/s/1", "xfs", true, &["nouuid"])]);
        let device = Images::of(&[mount("ext4", "/dev/mapper/s", &[])]).unwrap().unwrap();
        assert_eq!(device.images, [image("/dev/mapper/s", "ext4", false, &[])]);
    }

    #[test]
    fn layers_and_what_is_written_are_an_overlay() {
        let images = Images::of(&erofs()).unwrap().unwrap();
        assert_eq!(
            images.images,
            [
                image("/s/3/rwlayer.img", "ext4", false, &[]),
                image("/s/2/layer.erofs", "erofs", true, &[]),
                image("/s/1/layer.erofs", "erofs", true, &[]),
            ]
        );
        let options = vec!["index=off".to_owned()];
        assert_eq!(images.root, Root::Overlay { writable: Some(0), lower: vec![1, 2], options });
        assert_eq!(images.count(), (2, 1));
    }

    #[test]
    fn views_are_read_only() {
        let mut layers = erofs();
        layers.remove(0);
        layers[2] = mount("format/mkdir/overlay", "overlay", &["lowerdir={{ overlay 1 0 }}"]);
        let root = Images::of(&layers).unwrap().unwrap().root;
        assert_eq!(root, Root::Overlay { writable: None, lower: vec![1, 0], options: Vec::new() });
        let layer = mount("erofs", "/s/1/layer.erofs", &["ro", "loop"]);
        let bound = mount("format/bind", "{{ mount 0 }}", &["ro", "rbind"]);
        assert_eq!(Images::of(&[layer, bound]).unwrap().unwrap().root, Root::Image(0));
    }

    #[test]
    fn directories_of_the_host_are_the_hosts_to_mount() {
        for mounts in [
            vec![],
            vec![mount("overlay", "overlay", &["lowerdir=/a:/b"])],
            vec![mount("bind", "/s/1/fs", &["rbind", "rw"])],
            vec![mount("none", "/etc/hostname", &["bind"])],
            vec![mount("tmpfs", "none", &[])],
            vec![mount("btrfs", "/dev/sda1", &["subvolid=5"])],
            vec![mount("zfs", "tank/s/1", &[])],
        ] {
            assert_eq!(Images::of(&mounts).unwrap(), None, "{mounts:?}");
        }
    }

    #[test]
    fn what_the_guest_cannot_do_is_refused_by_name() {
        let with = |number: usize, options: &[&str]| {
            let mut mounts = erofs();
            mounts[number].options.extend(options.iter().map(|option| (*option).to_owned()));
            mounts
        };
        for (mounts, words) in [
            (with(1, &["device=/s/1/layer.erofs"]), "the option 'device=/s/1/layer.erofs' for the image"),
            (with(1, &["X-containerd.dmverity=/x"]), "dmverity_mode"),
            (with(1, &["X-other"]), "'X-other'"),
            (with(3, &["upperdir=/s/3/fs"]), "default_size"),
            (with(3, &["upperdir={{ mount 1 }}/upper"]), "{{ mount 0 }}/work"),
            (with(3, &["upperdir={{ mount 9 }}/upper"]), "{{ mount 9 }}"),
            (with(3, &["lowerdir={{ overlay 0 2 }}"]), "lowerdir"),
            (with(3, &["lowerdir=/etc"]), "lowerdir=/etc"),
            (with(3, &["X-containerd.mkdir.path=/etc/x:0755"]), "/etc/x"),
            (erofs().into_iter().chain([mount("tmpfs", "none", &[])]).collect(), "'format/mkdir/overlay'"),
            (erofs().into_iter().take(3).collect(), "'erofs'"),
        ] {
            let error = Images::of(&mounts).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
