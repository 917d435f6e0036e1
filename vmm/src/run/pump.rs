//! Between the serial port and the console's ends: input as the guest has room for it, and output whose end was
//! not ready.

use std::collections::VecDeque;
use std::fs::File;
use std::io;

use vmm_sys_util::epoll::EventSet;

use super::{INPUT, OUTPUT};
use crate::console::escape::Command;
use crate::console::{Ends, Input, Typed};
use crate::event_loop::Poller;
use crate::vm::Vm;

/// Keys that are kept for a guest that does not read them yet, so that the escape key behind them is heard.
const TYPE_AHEAD: usize = 64 << 10;

/// The console's ends, and what is on its way from them.
pub struct Pump {
    input: Option<Input>,
    /// Typed, and not yet the guest's.
    typed: VecDeque<u8>,
    output: Option<File>,
    watching_input: bool,
    watching_output: bool,
}

impl Pump {
    /// A pump between these ends, that waits for nothing yet.
    pub fn new(ends: Ends) -> Self {
        let Ends { input, output } = ends;
        Self { input, typed: VecDeque::new(), output, watching_input: false, watching_output: false }
    }

    /// The serial port has something to send, or room for input.
    pub fn on_serial(&mut self, vm: &Vm, poller: &Poller) {
        // A level that is looked at below: nothing is lost with the count.
        vm.serial().attention().read().ok();
        self.flush_output(vm, poller);
        self.pass_input_on(vm);
        self.watch_input(vm, poller, true);
    }

    /// Sends what the guest wrote, and waits for the other end where that takes no more.
    pub fn flush_output(&mut self, vm: &Vm, poller: &Poller) {
        let blocked = {
            let mut serial = vm.serial();
            if serial.output_blocked() {
                serial.flush();
            }
            serial.output_blocked()
        };
        let Some(output) = self.output.as_ref().filter(|_| blocked != self.watching_output) else {
            return;
        };
        let changed = match blocked {
            true => poller.add(output, OUTPUT, EventSet::OUT),
            false => poller.remove(output),
        };
        // What cannot be waited for is a file, which always takes more.
        self.watching_output = blocked && changed.is_ok();
    }

    /// Whether the guest's words wait for somebody to take them.
    pub fn output_waits(&self) -> bool {
        self.watching_output
    }

    /// Reads input: from a terminal in any case, from elsewhere as long as the guest has room for it. Gives what
    /// was meant for the VMM.
    pub fn on_input(&mut self, vm: &Vm, poller: &Poller) -> Vec<Command> {
        let room = match self.input.as_ref().is_some_and(Input::is_terminal) {
            true => TYPE_AHEAD.saturating_sub(self.typed.len()),
            false => vm.serial().free_space(),
        };
        let Some(input) = self.input.as_mut().filter(|_| room > 0) else {
            self.watch_input(vm, poller, false);
            return Vec::new();
        };
        let Typed { bytes, commands, ended } = input.read(room);
        self.typed.extend(bytes);
        self.pass_input_on(vm);
        if ended {
            self.watch_input(vm, poller, false);
            self.input = None;
        }
        commands
    }

    /// Waits for input, or does not.
    pub fn watch_input(&mut self, vm: &Vm, poller: &Poller, watch: bool) {
        let Some(input) = self.input.as_ref().filter(|_| watch != self.watching_input) else {
            return;
        };
        let changed: io::Result<()> = match watch {
            true => poller.add(input.descriptor(), INPUT, EventSet::IN),
            false => poller.remove(input.descriptor()),
        };
        match changed {
            Ok(()) => self.watching_input = watch,
            // A plain file cannot be waited for, and needs no waiting: it always has its next byte.
            Err(_) if watch => self.read_plain_file(vm),
            Err(_) => {}
        }
    }

    /// Gives the guest what it has room for now; the rest when [`Self::on_serial`] hears of more.
    fn pass_input_on(&mut self, vm: &Vm) {
        while !self.typed.is_empty() {
            let taken = vm.serial().enqueue(self.typed.make_contiguous());
            if taken == 0 {
                return;
            }
            self.typed.drain(..taken);
        }
    }

    /// Gives the guest what fits now; [`Self::on_serial`] comes back for more when there is room.
    fn read_plain_file(&mut self, vm: &Vm) {
        while let Some(input) = &mut self.input {
            let space = vm.serial().free_space();
            if space == 0 {
                return;
            }
            let Typed { bytes, ended, .. } = input.read(space);
            vm.serial().enqueue(&bytes);
            if ended {
                self.input = None;
            }
        }
    }
}
