//! File systems of the guest, as the host asks for them: the `Storage` service of `agent.proto`.
//!
//! Not here: the mounts inside a container, which its specification orders (`container`).

mod disk;
mod filesystem;
mod options;
mod place;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::mount::{MntFlags, umount2};
use nix::sys::statvfs::statvfs;
use rvm_agent_proto::mount_request::Source;
use rvm_agent_proto::{
    MountRequest, MountResponse, ReadArchiveRequest, ReadArchiveResponse, UnmountRequest, UnmountResponse,
    UsageRequest, UsageResponse, WriteArchiveRequest, WriteArchiveResponse, storage_server,
};
use tonic::{Code, Request, Response, Status};

use crate::archive::{self, Work};
use crate::console::say;
use crate::containers::Containers;
use crate::reaper::Reaper;
use crate::refusal::{Refusal, status};
use crate::server::blocking;
use crate::storage::options::Options;
use crate::streams::{Streams, no_stream};

/// The service.
#[derive(Debug)]
pub struct Storage {
    mounts: Mounts,
    containers: Containers,
    reaper: Reaper,
    streams: Streams,
}

impl Storage {
    /// The service, for archives of these containers on these streams.
    pub fn new(mounts: Mounts, containers: Containers, reaper: Reaper, streams: Streams) -> Self {
        Self { mounts, containers, reaper, streams }
    }

    /// Packs or unpacks files of a container.
    async fn archive(&self, container: &str, stream: u64, work: Work<'_>) -> Result<(), Status> {
        let path = work.path();
        if !path.starts_with('/') || path.contains('\0') {
            return Err(Refusal::invalid(format!("the path {path:?}"), "it has to be absolute").into());
        }
        // The stream first: what the container's root is may change while the host opens it.
        let stream = self.streams.claim(stream).await.map_err(no_stream)?;
        let root = self.containers.open_root(container)?;
        archive::run(&self.reaper, root, stream, work).await
    }
}

/// What the host had mounted; clones are one.
#[derive(Clone, Debug, Default)]
pub struct Mounts {
    /// What is mounted, or about to be, in the order of mounting.
    mounts: Arc<Mutex<Vec<Mounted>>>,
}

/// A mount.
#[derive(Clone, Debug)]
struct Mounted {
    target: PathBuf,
    /// The disk that it is of, or the partition.
    device: Option<PathBuf>,
}

impl Mounts {
    /// Unmounts all, the last mounted first. What is busy is made read-only by whoever powers off.
    pub fn unmount_all(&self) {
        let mounts = std::mem::take(&mut *self.lock());
        for Mounted { target, .. } in mounts.iter().rev() {
            if let Err(err) = umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
                say(&format!("cannot unmount {}: {err}", target.display()));
            }
        }
    }

    /// What is mounted at the place that a request names.
    fn mounted(&self, target: &str) -> Result<Mounted, Refusal> {
        let path = place::parse(target)?;
        let found = self.lock().iter().find(|mounted| mounted.target == path).cloned();
        found.ok_or_else(|| Refusal::Absent(format!("file system mounted at {target}")))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Mounted>> {
        // Each change is complete in itself; a panic elsewhere leaves nothing half done.
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, target: &Path) {
        self.lock().retain(|known| known.target != target);
    }

    fn is_of(&self, target: &Path, device: PathBuf) {
        if let Some(mounted) = self.lock().iter_mut().find(|mounted| mounted.target == target) {
            mounted.device = Some(device);
        }
    }
}

#[tonic::async_trait]
impl storage_server::Storage for Storage {
    async fn mount(&self, request: Request<MountRequest>) -> Result<Response<MountResponse>, Status> {
        let request = request.into_inner();
        let target = place::parse(&request.target)?;
        let options = Options::parse(&request.options)?;
        let source = request.source.ok_or_else(|| Refusal::invalid("source", "it is missing"))?;
        {
            let mut mounts = self.mounts.lock();
            if mounts.iter().any(|mounted| mounted.target == target) {
                return Err(Refusal::Taken(format!("the mount point {}", request.target)).into());
            }
            mounts.push(Mounted { target: target.clone(), device: None });
        }
        let mounts = self.mounts.clone();
        to_its_end(async move {
            match mount(source, target.clone(), options).await {
                Ok(Some(device)) => mounts.is_of(&target, device),
                Ok(None) => {}
                Err(status) => {
                    mounts.forget(&target);
                    return Err(status);
                }
            }
            Ok(Response::new(MountResponse {}))
        })
        .await
    }

    async fn unmount(&self, request: Request<UnmountRequest>) -> Result<Response<UnmountResponse>, Status> {
        let Mounted { target, device } = self.mounts.mounted(&request.into_inner().target)?;
        let mounts = self.mounts.clone();
        to_its_end(async move {
            let unmounted = target.clone();
            blocking(move || {
                let at = unmounted.display();
                umount2(&unmounted, MntFlags::UMOUNT_NOFOLLOW)
                    .map_err(Refusal::kernel(|| format!("unmount {at}")))?;
                place::remove(&unmounted);
                Ok(())
            })
            .await?;
            mounts.forget(&target);
            if let Some(device) = device {
                disk::released(&device).await?;
            }
            Ok(Response::new(UnmountResponse {}))
        })
        .await
    }

    async fn usage(&self, request: Request<UsageRequest>) -> Result<Response<UsageResponse>, Status> {
        let Mounted { target, .. } = self.mounts.mounted(&request.into_inner().target)?;
        let sizes = blocking(move || {
            statvfs(&target).map_err(Refusal::kernel(|| format!("take the size of {}", target.display())))
        })
        .await?;
        let unit = sizes.fragment_size();
        Ok(Response::new(UsageResponse {
            total_bytes: sizes.blocks().saturating_mul(unit),
            free_bytes: sizes.blocks_available().saturating_mul(unit),
            inodes: sizes.files(),
            free_inodes: sizes.files_available(),
        }))
    }

    async fn read_archive(
        &self,
        request: Request<ReadArchiveRequest>,
    ) -> Result<Response<ReadArchiveResponse>, Status> {
        let ReadArchiveRequest { container, path, follow, stream } = request.into_inner();
        self.archive(&container, stream, Work::Read { path: &path, follow }).await?;
        Ok(Response::new(ReadArchiveResponse {}))
    }

    async fn write_archive(
        &self,
        request: Request<WriteArchiveRequest>,
    ) -> Result<Response<WriteArchiveResponse>, Status> {
        let WriteArchiveRequest { container, path, stream } = request.into_inner();
        self.archive(&container, stream, Work::Write { path: &path }).await?;
        Ok(Response::new(WriteArchiveResponse {}))
    }
}

/// Does what must not stop half-way, even if the host gives the call up.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(err) => Err(status(Code::Internal, &err)),
    }
}

/// Mounts one source; gives its device, if it has one.
async fn mount(source: Source, target: PathBuf, options: Options) -> Result<Option<PathBuf>, Status> {
    match source {
        Source::Disk(disk) => {
            let device = disk::find(&disk.id, disk.size_bytes, disk.partition).await?;
            let found = device.clone();
            blocking(move || filesystem::disk(&device, &disk.fs_type, &target, options)).await?;
            return Ok(Some(found));
        }
        Source::Share(share) => blocking(move || filesystem::share(&share, &target, options)).await,
        Source::Tmpfs(tmpfs) => blocking(move || filesystem::tmpfs(tmpfs, &target, options)).await,
        Source::Overlay(overlay) => blocking(move || filesystem::overlay(&overlay, &target, options)).await,
        Source::Bind(bind) => blocking(move || filesystem::bind(&bind.source, &target, &options)).await,
    }?;
    Ok(None)
}
