# bytequilt as a service, on a CPU. PyTorch comes from PyPI, with CUDA; for a small image name an index of CPU builds:
#   docker build --build-arg PIP_EXTRA_INDEX_URL=... -t bytequilt .
#   docker run --rm -p 127.0.0.1:8000:8000 -e BYTEQUILT_API_KEYS=... bytequilt
FROM python:3.12-slim AS build
ARG PIP_EXTRA_INDEX_URL
ARG TORCH="torch>=2.10,<2.14"
ENV PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/bytequilt && /opt/bytequilt/bin/pip install "$TORCH"
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/bytequilt/bin/pip install '.[serve,fast]'

FROM python:3.12-slim
COPY --from=build /opt/bytequilt /opt/bytequilt
# With a home, where the step that numba compiles is kept.
RUN useradd --system --create-home bytequilt
USER bytequilt
WORKDIR /home/bytequilt
ENV PATH=/opt/bytequilt/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 8000
# A container that is stopped waits 10 seconds unless told; running texts have 30: docker stop -t 45
# The shell form would put a shell between the server and the signals that end it.
ENTRYPOINT ["bytequilt", "serve", "--host", "0.0.0.0"]
CMD ["tiny"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
