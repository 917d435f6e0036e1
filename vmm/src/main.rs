//! The `rvm` command.

fn main() {}
