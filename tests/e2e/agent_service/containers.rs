//! Processes: their streams, their ends, and what is told of them.

use rvm_agent_proto::event::What;
use rvm_agent_proto::{
    DeleteRequest, EventsRequest, ExecRequest, MetricsRequest, ProcessesRequest, ResizeRequest,
    SignalRequest, StartRequest, Streams, User, WaitRequest,
};
use tokio::io::AsyncWriteExt;
use tonic::Code;

use super::{process, read_all, refused, spec, with_guest};

#[test]
fn output_and_exit_codes_are_exact() {
    with_guest(async |guest| {
        guest.mount_root().await;
        for (id, script, status) in [
            ("zero", "exit 0", 0),
            ("code", "exit 255", 255),
            ("signal", "kill -TERM $$", 143),
            ("real-time", "kill -50 $$", 178),
        ] {
            // The first process of a pid namespace is deaf to its own signals: a shell below it is not.
            let (_, end) = guest.run(id, &format!("sh -c '{script}'; exit $?")).await;
            assert_eq!(end.status, status, "{script}");
        }
        let (output, end) = guest.run("flood", "seq 200000; exit 3").await;
        assert_eq!((output.lines().last(), end.status), (Some("200000"), 3));
        assert_eq!(output.lines().count(), 200_000);
    });
}

#[test]
fn input_goes_in_and_its_end_is_the_end() {
    with_guest(async |guest| {
        guest.mount_root().await;
        let (stdin, mut input) = guest.agent.stream().await.unwrap();
        let (stdout, output) = guest.agent.stream().await.unwrap();
        let streams = Streams { stdin, stdout, ..Streams::default() };
        guest.start("cat", &spec("cat; echo end"), streams).await;
        input.write_all(&vec![b'x'; 300_000]).await.unwrap();
        let output = tokio::spawn(read_all(output));
        input.shutdown().await.unwrap();
        let output = output.await.unwrap();
        assert_eq!((output.len(), &output[300_000..]), (300_004, &b"end\n"[..]));
        assert_eq!(guest.wait("cat", "").await.status, 0);
    });
}

#[test]
fn a_process_that_nobody_reads_stops_nobody_else() {
    with_guest(async |guest| {
        guest.mount_root().await;
        let (stdout, _unread) = guest.agent.stream().await.unwrap();
        guest.start("flood", &spec("cat /dev/zero"), Streams { stdout, ..Streams::default() }).await;
        let (output, _) = guest.run("other", "seq 100000 | tail -n 1").await;
        assert_eq!(output, "100000\n");
        let metrics = guest.agent.sandbox().metrics(MetricsRequest {}).await.unwrap().into_inner();
        assert!(metrics.agent_resident_bytes < 8 << 20, "{}", metrics.agent_resident_bytes);
    });
}

#[test]
fn a_process_is_run_in_a_container_by_a_name_of_it_on_a_terminal() {
    with_guest(async |guest| {
        guest.mount_root().await;
        guest.start("box", &spec("sleep 1000"), Streams::default()).await;
        let (stdin, mut input) = guest.agent.stream().await.unwrap();
        let (stdout, output) = guest.agent.stream().await.unwrap();
        let mut process = process("read go; stty size; id; echo $HOME; exit 9");
        process["terminal"] = true.into();
        let request = ExecRequest {
            container: "box".into(),
            exec: "shell".into(),
            process: serde_json::to_vec(&process).unwrap(),
            streams: Some(Streams { stdin, stdout, stderr: 0, columns: 80, rows: 24 }),
            user: Some(User { user: "web".into(), groups: Vec::new() }),
        };
        let mut containers = guest.agent.containers();
        containers.exec(request.clone()).await.unwrap();
        let request = ExecRequest { streams: None, ..request };
        assert_eq!(refused(containers.exec(request).await).0, Code::AlreadyExists);
        let size = ResizeRequest { container: "box".into(), exec: "shell".into(), columns: 100, rows: 30 };
        containers.resize(size).await.unwrap();
        input.write_all(b"go\n").await.unwrap();
        let output = String::from_utf8(read_all(output).await).unwrap();
        assert!(output.contains("30 100\r\n"), "{output}");
        assert!(output.contains("uid=33(web) gid=33(web) groups=4(logs)"), "{output}");
        assert!(output.contains("/var/www\r\n"), "{output}");
        assert_eq!(guest.wait("box", "shell").await.status, 9);

        let request = ProcessesRequest { container: "box".into() };
        let processes = containers.processes(request).await.unwrap().into_inner().processes;
        let commands: Vec<_> = processes.iter().map(|process| process.command.join(" ")).collect();
        assert!(commands.iter().any(|command| command.contains("sleep 1000")), "{commands:?}");
    });
}

#[test]
fn a_program_that_is_not_there_or_cannot_run_is_told_apart() {
    with_guest(async |guest| {
        guest.mount_root().await;
        for (id, program, code) in
            [("absent", "/bin/nope", Code::NotFound), ("text", "/etc/passwd", Code::PermissionDenied)]
        {
            let mut spec = spec("");
            spec["process"]["args"] = serde_json::json!([program]);
            let spec = serde_json::to_vec(&spec).unwrap();
            let request = rvm_agent_proto::CreateRequest { id: id.into(), spec, ..Default::default() };
            let mut containers = guest.agent.containers();
            containers.create(request).await.unwrap();
            let start = containers.start(StartRequest { container: id.into() }).await;
            assert_eq!(refused(start).0, code, "{program}");
        }
    });
}

#[test]
fn a_memory_limit_is_told_as_it_ends_a_process() {
    with_guest(async |guest| {
        guest.mount_root().await;
        let mut containers = guest.agent.containers();
        let mut events = containers.events(EventsRequest {}).await.unwrap().into_inner();
        let mut spec = spec("x=0123456789abcdef; while :; do x=$x$x; done");
        spec["linux"]["resources"] = serde_json::json!({ "memory": { "limit": 16 << 20 } });
        guest.start("greedy", &spec, Streams::default()).await;
        let end = guest.wait("greedy", "").await;
        assert_eq!((end.status, end.out_of_memory), (137, true));
        let first = events.message().await.unwrap().unwrap();
        assert!(matches!(first.what, Some(What::OutOfMemory(_))), "{first:?}");
        let second = events.message().await.unwrap().unwrap();
        let Some(What::Exited(exited)) = second.what else { panic!("{second:?}") };
        assert_eq!(exited.end.unwrap().status, 137);
    });
}

#[test]
fn any_number_of_callers_wait_and_a_signal_ends_all() {
    with_guest(async |guest| {
        guest.mount_root().await;
        guest.start("box", &spec("sleep 1000 & wait"), Streams::default()).await;
        let mut containers = guest.agent.containers();
        let waits: Vec<_> = (0..50)
            .map(|_| {
                let mut containers = guest.agent.containers();
                tokio::spawn(async move {
                    let request = WaitRequest { container: "box".into(), exec: String::new() };
                    containers.wait(request).await.unwrap().into_inner().status
                })
            })
            .collect();
        let running = DeleteRequest { container: "box".into(), ..Default::default() };
        assert_eq!(refused(containers.delete(running.clone()).await).0, Code::FailedPrecondition);
        let kill = SignalRequest { container: "box".into(), signal: 9, all: true, ..Default::default() };
        containers.signal(kill.clone()).await.unwrap();
        for wait in waits {
            assert_eq!(wait.await.unwrap(), 137);
        }
        containers.signal(kill).await.unwrap();
        containers.delete(running.clone()).await.unwrap();
        assert_eq!(refused(containers.delete(running).await).0, Code::NotFound);
    });
}
