FROM ghcr.io/astral-sh/uv:0.13.9 AS uv

FROM python:3.11-slim-trixie AS build
COPY --from=uv /uv /usr/local/bin/uv
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=/opt/contract-ledger
WORKDIR /build
# The dependencies are a layer of their own: they change less often than the code.
COPY pyproject.toml uv.lock ./
RUN uv sync --locked --no-dev --no-install-project
COPY LICENSE README.md ./
COPY migrations migrations
COPY schemas schemas
COPY service service
RUN uv sync --locked --no-dev --no-editable

FROM python:3.11-slim-trixie
RUN groupadd --gid 10001 ledger \
    && useradd --uid 10001 --gid ledger --no-log-init --create-home --home-dir /var/lib/contract-ledger ledger
COPY --from=build /opt/contract-ledger /opt/contract-ledger
ENV PATH=/opt/contract-ledger/bin:$PATH PYTHONUNBUFFERED=1 XDG_DATA_HOME=/var/lib
USER 10001:10001
WORKDIR /var/lib/contract-ledger
# Without LEDGER_DATABASE_URL the embedded PostgreSQL keeps everything here.
VOLUME /var/lib/contract-ledger
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
CMD ["contract-ledger", "serve", "--host", "0.0.0.0", "--port", "8000"]
