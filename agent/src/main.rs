//! PID 1 of an rvm guest.

fn main() {}
