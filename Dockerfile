# syntax=docker/dockerfile:1

# Builds the binary. libclang is for the bindings of RocksDB, which is compiled from its sources.
FROM rust:1.95-bookworm AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libclang-dev libssl-dev zlib1g-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# What is compiled stays in the cache from one image to the next.
ENV ICESTREAM_CACHE=/cache
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/cache \
    make build \
 && install -s -D /cache/target/release/icestream /out/icestream \
 && /out/icestream --version

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libssl3 libstdc++6 zlib1g \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --system --gid 10001 icestream \
 && useradd --system --uid 10001 --gid icestream --no-create-home --shell /usr/sbin/nologin icestream \
 && install -d -o icestream -g icestream /var/lib/icestream
COPY --from=build /out/icestream /usr/local/bin/icestream
COPY config /opt/icestream/config
COPY LICENSE /opt/icestream/LICENSE

# Paths in settings are relative to this directory; what is kept lies in the volume.
WORKDIR /opt/icestream
USER icestream
# The environment wins over an env file: the health check needs this port, the checkpoints this volume.
ENV HTTP_LISTEN=:9464 \
    CHECKPOINT_DIR=/var/lib/icestream/checkpoints
VOLUME /var/lib/icestream
EXPOSE 9464
# Alive, not ready: a server that is away is no reason to replace a process that goes on trying.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["icestream", "health", "--url", "http://127.0.0.1:9464/healthz"]
# SIGTERM seals and commits what was read, for at most 25 seconds by default.
STOPSIGNAL SIGTERM
ENTRYPOINT ["icestream"]
CMD ["run"]
