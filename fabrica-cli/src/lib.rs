//! The fabrica command.
