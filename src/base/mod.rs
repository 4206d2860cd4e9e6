//! What every module may use and none owns: rules that must be the same wherever they are asked for.
//! Nothing here uses another module.

pub mod calendar;
pub mod clock;
pub mod durable;
pub mod kafka_columns;
pub mod location;
pub mod os_error;
pub mod secret;
