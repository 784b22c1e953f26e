//! Compiles the wire messages with protox, so that nobody has to install protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=wire/shoal.proto");
    let descriptors = protox::compile(["wire/shoal.proto"], ["wire"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
