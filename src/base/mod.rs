//! What every module may use and none owns: rules that must be the same wherever they are asked for.
//! Nothing here uses another module.

pub(crate) mod calendar;
pub(crate) mod clock;
pub(crate) mod durable;
pub(crate) mod kafka_columns;
pub(crate) mod location;
#[cfg(test)]
pub(crate) mod log_lines;
pub(crate) mod masking;
pub(crate) mod memory_bound;
pub(crate) mod names;
pub(crate) mod one_line;
pub(crate) mod os_error;
pub(crate) mod secret;
