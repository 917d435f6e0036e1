//! Mounts: what can be mounted, where, and what is refused.

use rvm_agent_proto::mount_request::Source;
use rvm_agent_proto::{Bind, Disk, Overlay, Tmpfs, UnmountRequest, UsageRequest};
use tonic::Code;

use super::{refused, with_guest};

fn tmpfs() -> Source {
    Source::Tmpfs(Tmpfs { size_bytes: 1 << 20, mode: 0 })
}

#[test]
fn a_mount_has_its_size_and_goes_with_its_directory() {
    with_guest(async |guest| {
        let target = || "/run/rvm/a/b".to_owned();
        guest.mount(&target(), tmpfs(), &["nodev"]).await.unwrap();
        let taken = guest.mount(&target(), tmpfs(), &[]).await.unwrap_err();
        assert_eq!(taken.code(), Code::AlreadyExists);
        let mut storage = guest.agent.storage();
        let usage = storage.usage(UsageRequest { target: target() }).await.unwrap().into_inner();
        assert_eq!((usage.total_bytes, usage.free_bytes), (1 << 20, 1 << 20));
        storage.unmount(UnmountRequest { target: target() }).await.unwrap();
        assert_eq!(refused(storage.unmount(UnmountRequest { target: target() }).await).0, Code::NotFound);
        assert_eq!(refused(storage.usage(UsageRequest { target: target() }).await).0, Code::NotFound);
    });
}

#[test]
fn an_overlay_has_room_for_as_many_layers_as_docker_allows() {
    with_guest(async |guest| {
        let lower: Vec<String> =
            (0..127).map(|n| format!("/run/rvm/layers/{n}/{}", "long".repeat(20))).collect();
        for layer in &lower {
            guest.mount(layer, tmpfs(), &[]).await.unwrap();
        }
        guest
            .mount("/run/rvm/all", Source::Overlay(Overlay { lower, writable: String::new() }), &[])
            .await
            .unwrap();
    });
}

#[test]
fn a_path_that_leads_elsewhere_is_refused() {
    with_guest(async |guest| {
        for target in ["/etc", "/run/rvm", "/run/rvm/../x", "run/rvm/x", ""] {
            let status = guest.mount(target, tmpfs(), &[]).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{target}");
        }
        // A link that a container left in its root.
        guest.mount_root().await;
        let (_, end) = guest.run("link", "busybox ln -s /etc /out").await;
        assert_eq!(end.status, 0);
        assert!(guest.mount("/run/rvm/root/out/x", tmpfs(), &[]).await.is_err());
        let bind = Source::Bind(Bind { source: "/run/rvm/root/out".into() });
        assert!(guest.mount("/run/rvm/y", bind, &[]).await.is_err());
    });
}

#[test]
fn what_is_not_there_is_said_by_name() {
    with_guest(async |guest| {
        let disk =
            Source::Disk(Disk { id: "root".into(), partition: 9, fs_type: "ext4".into(), ..Disk::default() });
        let status = guest.mount("/run/rvm/x", disk, &["ro"]).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.message().contains("partition 9 of /dev/vda"), "{}", status.message());
        let disk =
            Source::Disk(Disk { id: "root".into(), partition: 0, fs_type: "nofs".into(), ..Disk::default() });
        let status = guest.mount("/run/rvm/x", disk, &["ro"]).await.unwrap_err();
        assert!(status.message().contains("file system nofs"), "{}", status.message());
        let status = guest.mount("/run/rvm/x", tmpfs(), &["no_such_option"]).await.unwrap_err();
        assert!(status.message().contains("no_such_option"), "{}", status.message());
    });
}
