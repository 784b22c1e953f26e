# Shoal in a container.
#
#   docker build -t shoal .                                compiles it here
#   cargo build --release && docker build --target prebuilt -t shoal .
#                                                          takes the binary that was built outside
#
# The base images can be replaced: --build-arg BUILDER=… --build-arg RUNTIME=… (RUNTIME needs glibc as new as that
# of the machine which compiled the binary).
ARG BUILDER=rust:1.95-bookworm
ARG RUNTIME=debian:bookworm-slim

# What both ends share: a user without rights, a place for its data, a check of its health.
FROM ${RUNTIME} AS base
# No CA certificates are installed: the binary brings Mozilla's list and uses it where the system has none. Directories
# that volumes are mounted on belong to the user before the mount, so that a new volume does too.
RUN groupadd --system --gid 10001 shoal \
    && useradd --system --uid 10001 --gid shoal --home-dir /var/lib/shoal --shell /usr/sbin/nologin shoal \
    && install -d -o shoal -g shoal -m 0700 /var/lib/shoal /etc/shoal
# In a container, loopback is nobody's: the gateway listens on all of the container's addresses, and which of the
# host's it is published on decides who may pull. The admin port stays inside.
ENV SHOAL_DATA_DIR=/var/lib/shoal \
    SHOAL_GATEWAY_ADDR=0.0.0.0:5055 \
    SHOAL_PEER_ADDR=0.0.0.0:5056 \
    SHOAL_ADMIN_ADDR=127.0.0.1:5057
VOLUME /var/lib/shoal
EXPOSE 5055 5056
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 CMD ["shoal", "status", "--ready"]
ENTRYPOINT ["shoal"]
CMD ["run"]

FROM base AS prebuilt
COPY target/release/shoal /usr/local/bin/shoal

FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p shoal --bin shoal

FROM base AS compiled
COPY --from=build /src/target/release/shoal /usr/local/bin/shoal
