//! Compiles the schema with protox, so that no system `protoc` is needed, and keeps the descriptor set for reflection.

#![allow(clippy::disallowed_methods, reason = "a build script writes files; the ban is for the checks")]

use prost::Message as _;
use std::{env, fs, path::PathBuf};

const FILES: [&str; 5] = [
    "informer/v1/task.proto",
    "informer/v1/informer.proto",
    "informer/v1/link.proto",
    "informer/v1/workflow.proto",
    "informer/store/v1/store.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set; build this through cargo")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Maps are ordered, so that equal specs have equal bytes and one hash; log bytes are shared, not copied.
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::codec::Codec")
        .btree_map(".")
        .bytes(".informer.v1.LogsChunk.data")
        .bytes(".informer.v1.LogUpload.data")
        .bytes(".informer.v1.LogPart.data")
        .compile_fds(descriptors)?;
    Ok(())
}
