# The server's image, for compose.yaml. Context: the repository.
ARG BUILD=rust:1.95-bookworm
ARG BASE=debian:bookworm-slim

FROM ${BUILD} AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked -p fabrica-server
# The runner goes into sandboxes of any distribution, so it is linked statically; that needs the target to be named,
# or build scripts and macros would be linked that way too.
RUN target=$(rustc -vV | sed -n 's/^host: //p') \
    && RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked -p fabrica-runner --target "$target" \
    && cp "target/$target/release/fabrica-runner" target/release/

FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl git \
    && rm -rf /var/lib/apt/lists/*
# The runner lies beside the server, which looks for it there.
COPY --from=build /source/target/release/fabrica-server /source/target/release/fabrica-runner /usr/local/bin/
EXPOSE 8080
CMD ["fabrica-server"]
