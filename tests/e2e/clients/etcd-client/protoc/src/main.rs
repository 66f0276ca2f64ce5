//! As much of protoc as `prost-build` calls: reads protocol files and writes their descriptors.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use protox::prost::Message;

fn main() -> Result<()> {
    let (mut includes, mut files, mut out) = (Vec::new(), Vec::new(), None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // Both are what it does in any case.
            "--include_imports" | "--include_source_info" => {}
            "-o" => out = arguments.next().map(PathBuf::from),
            "-I" => includes.extend(arguments.next()),
            option if option.starts_with('-') => bail!("unknown option {option}"),
            _ => files.push(argument),
        }
    }
    let descriptors = protox::compile(&files, &includes)?;
    std::fs::write(out.context("-o FILE is missing")?, descriptors.encode_to_vec())?;
    Ok(())
}
