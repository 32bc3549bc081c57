# Sonotag in a container, on Debian's own Python, without torch. It needs BuildKit, which Docker has used since version 23.
#   docker build --target cpu -t sonotag:cpu .      docker build --target cuda -t sonotag:cuda .
# A bundle of your own (a folder below bundles/): --build-arg BUNDLE=bundles/mine --build-arg BUNDLE_NAME=mine
# tests/image/check_image.py runs these very lines in a clean Debian, without an engine.

FROM debian:bookworm-slim AS system
COPY docker/install-system.sh /usr/local/lib/sonotag/
RUN /usr/local/lib/sonotag/install-system.sh

FROM system AS build
RUN /usr/local/lib/sonotag/install-system.sh build
WORKDIR /source
COPY docker/install-dependencies.sh docker/install-sonotag.sh docker/build.lock docker/cpu.lock docker/cuda.lock docker/
COPY pyproject.toml README.md LICENSE ./

FROM build AS build-cpu
RUN docker/install-dependencies.sh cpu
COPY export export
COPY service service
RUN docker/install-sonotag.sh

FROM build AS build-cuda
RUN docker/install-dependencies.sh cuda
COPY export export
COPY service service
RUN docker/install-sonotag.sh

FROM system AS runtime
ARG BUNDLE=""
ARG BUNDLE_NAME="custom"
COPY docker/healthcheck.py /usr/local/lib/sonotag/
RUN --mount=type=bind,target=/context /context/docker/install-bundle.sh /context "$BUNDLE" "$BUNDLE_NAME"
ENV PATH="/opt/sonotag/bin:$PATH" \
    LANG="C.UTF-8" \
    PYTHONDONTWRITEBYTECODE="1" \
    PYTHONUNBUFFERED="1" \
    PROMETHEUS_MULTIPROC_DIR="/run/sonotag/metrics" \
    SONOTAG_HOST="0.0.0.0" \
    SONOTAG_LOG_FORMAT="json" \
    SONOTAG_BUNDLES="${BUNDLE:+$BUNDLE_NAME=/opt/bundles/$BUNDLE_NAME}"
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
WORKDIR /tmp
# It listens for everybody and does not start unless it has API keys (SONOTAG_API_KEYS_FILE) or is told to do without
# (SONOTAG_INSECURE=true).
EXPOSE 8000
# Loading takes seconds; while it drains it is not ready, and so unhealthy, which is what a balancer should see.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "/usr/local/lib/sonotag/healthcheck.py"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["sonotag"]
CMD ["serve"]

FROM runtime AS cuda
COPY --from=build-cuda /opt/sonotag /opt/sonotag
# What the NVIDIA container toolkit adds at run time. Without a GPU the start fails and says so: no silent fall-back.
ENV NVIDIA_VISIBLE_DEVICES="all" \
    NVIDIA_DRIVER_CAPABILITIES="compute,utility" \
    SONOTAG_PROVIDER="cuda"

FROM runtime AS cpu
COPY --from=build-cpu /opt/sonotag /opt/sonotag
ENV SONOTAG_PROVIDER="cpu"
