//! The events of tasks, as containerd names them: which there are, and what is in them.

use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskPaused,
    TaskResumed, TaskStart,
};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::topics;

use crate::events::{Events, Published};
use crate::process::{Exit, Process};
use crate::shim::Order;

/// Tells containerd what happens to tasks.
#[derive(Clone, Debug)]
pub struct Teller(pub Events);

impl Teller {
    /// A container was made.
    pub fn created(&self, order: &Order, pid: u32) -> Published {
        let io = TaskIO {
            stdin: order.paths.stdin.clone(),
            stdout: order.paths.stdout.clone(),
            stderr: order.paths.stderr.clone(),
            terminal: order.paths.terminal,
            ..TaskIO::default()
        };
        let event = TaskCreate {
            container_id: order.id.clone(),
            bundle: order.bundle.to_string_lossy().into_owned(),
            rootfs: order.rootfs.clone(),
            io: MessageField::some(io),
            pid,
            ..TaskCreate::default()
        };
        self.0.publish(topics::TASK_CREATE_EVENT_TOPIC, "TaskCreate", &event)
    }

    /// A process was started.
    pub fn started(&self, process: &Process, pid: u32) -> Published {
        let container_id = process.container.clone();
        if process.exec.is_empty() {
            let event = TaskStart { container_id, pid, ..TaskStart::default() };
            return self.0.publish(topics::TASK_START_EVENT_TOPIC, "TaskStart", &event);
        }
        let exec_id = process.exec.clone();
        let event = TaskExecStarted { container_id, exec_id, pid, ..TaskExecStarted::default() };
        self.0.publish(topics::TASK_EXEC_STARTED_EVENT_TOPIC, "TaskExecStarted", &event)
    }

    /// A process of an exec is known.
    pub fn exec_added(&self, process: &Process) -> Published {
        let (container_id, exec_id) = (process.container.clone(), process.exec.clone());
        let event = TaskExecAdded { container_id, exec_id, ..TaskExecAdded::default() };
        self.0.publish(topics::TASK_EXEC_ADDED_EVENT_TOPIC, "TaskExecAdded", &event)
    }

    /// A process ended.
    pub fn exited(&self, process: &Process, pid: u32, exit: Exit) -> Published {
        let event = TaskExit {
            container_id: process.container.clone(),
            id: process.id().to_owned(),
            pid,
            exit_status: exit.status,
            exited_at: MessageField::some(exit.at.into()),
            ..TaskExit::default()
        };
        self.0.publish(topics::TASK_EXIT_EVENT_TOPIC, "TaskExit", &event)
    }

    /// A container was deleted.
    pub fn deleted(&self, process: &Process, pid: u32, exit: Exit) -> Published {
        let event = TaskDelete {
            container_id: process.container.clone(),
            pid,
            exit_status: exit.status,
            exited_at: MessageField::some(exit.at.into()),
            ..TaskDelete::default()
        };
        self.0.publish(topics::TASK_DELETE_EVENT_TOPIC, "TaskDelete", &event)
    }

    /// A container was frozen, or goes on.
    pub fn paused(&self, container: &str, paused: bool) -> Published {
        let container_id = container.to_owned();
        if paused {
            let event = TaskPaused { container_id, ..TaskPaused::default() };
            return self.0.publish(topics::TASK_PAUSED_EVENT_TOPIC, "TaskPaused", &event);
        }
        let event = TaskResumed { container_id, ..TaskResumed::default() };
        self.0.publish(topics::TASK_RESUMED_EVENT_TOPIC, "TaskResumed", &event)
    }

    /// A process was killed for its container's memory limit.
    pub fn out_of_memory(&self, container: &str) -> Published {
        let event = TaskOOM { container_id: container.to_owned(), ..TaskOOM::default() };
        self.0.publish(topics::TASK_OOM_EVENT_TOPIC, "TaskOOM", &event)
    }

    /// Everything that was told until now.
    pub fn all(&self) -> Published {
        self.0.all()
    }
}
