//! The thread a device runs on.
//!
//! Created with the device, before the guest runs, so that its seccomp filter is its own and no vCPU thread
//! ever needs to create threads. It waits for an [`Activation`], runs the device on it, and hands it back when
//! told to stop:
//!
//! ```text
//!            start(activation)                    stop()
//!   idle ───────────────────────> running ─────────────────────> idle, activation handed back
//!    │ reset(): the device forgets                 │ run() failed: asks for a reset, waits for stop()
//! ```

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Activation, VirtioDevice};
use crate::logging;

/// What the transport asks of the worker's thread.
enum Order {
    Run(Activation),
    Reset,
}

/// A device on its thread, seen from the transport.
pub struct Worker {
    orders: Option<Sender<Order>>,
    returned: Receiver<Activation>,
    stop: EventFd,
    thread: Option<JoinHandle<Box<dyn VirtioDevice>>>,
}

impl Worker {
    /// Starts an idle worker for `device`. `confine` is called first on the new thread: it installs what
    /// bounds the thread, and ends the process when it cannot.
    pub fn spawn(device: Box<dyn VirtioDevice>, confine: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (orders, inbox) = channel();
        let (outbox, returned) = channel();
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let thread = Builder::new().name(format!("rvm-{}", device.kind().name())).spawn(move || {
            confine();
            serve(device, &inbox, &outbox)
        })?;
        Ok(Self { orders: Some(orders), returned, stop, thread: Some(thread) })
    }

    /// A descriptor for [`Activation::stop`], readable from [`Self::stop`] on.
    pub fn stop_event(&self) -> io::Result<EventFd> {
        self.stop.try_clone()
    }

    /// Runs the device on `activation`. Answers false when the worker is gone.
    pub fn start(&self, activation: Activation) -> bool {
        self.send(Order::Run(activation))
    }

    /// Stops the running device and takes back what it ran on. `None` when the worker is gone.
    ///
    /// Call it only after [`Self::start`] answered true, once for each.
    pub fn stop(&self) -> Option<Activation> {
        // Full only if 2^64 - 1 stops wait to be seen: then it is readable as well.
        self.stop.write(1).ok();
        let activation = self.returned.recv().ok();
        // The count is gone if the device took it; empty is what is wanted.
        self.stop.read().ok();
        activation
    }

    /// Puts the idle device back to its first state.
    pub fn reset(&self) -> bool {
        self.send(Order::Reset)
    }

    /// Ends the thread of an idle or running device and gives the device.
    ///
    /// # Panics
    /// When the device's thread panicked.
    pub fn join(mut self) -> Box<dyn VirtioDevice> {
        self.end().expect("a worker is joined once")
    }

    fn send(&self, order: Order) -> bool {
        self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok())
    }

    fn end(&mut self) -> Option<Box<dyn VirtioDevice>> {
        self.orders = None;
        self.stop.write(1).ok();
        let thread = self.thread.take()?;
        Some(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            drop(self.end());
        }
    }
}

/// The thread: carries out orders until the transport is gone.
fn serve(
    mut device: Box<dyn VirtioDevice>,
    inbox: &Receiver<Order>,
    outbox: &Sender<Activation>,
) -> Box<dyn VirtioDevice> {
    while let Ok(order) = inbox.recv() {
        match order {
            Order::Reset => device.reset(),
            Order::Run(mut activation) => {
                if let Err(error) = device.run(&mut activation) {
                    log::warn!("{} device: {}", device.kind().name(), logging::chain(&error));
                    activation.interrupt.ask_for_reset();
                }
                if outbox.send(activation).is_err() {
                    break;
                }
            }
        }
    }
    device.close();
    device
}
