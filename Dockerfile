# docker build -t metarl .
# docker run --rm -v "$PWD/runs:/metarl/runs" metarl train --family envs:Navigation2D-v0
#
# For an image without CUDA, of 2 GB instead of 6:
#   docker build -t metarl --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu .
FROM python:3.12-slim

# What MuJoCo draws clips with where there is no screen.
RUN apt-get update && apt-get install -y --no-install-recommends libegl1 libopengl0 libgl1-mesa-dri \
  && rm -rf /var/lib/apt/lists/*
ENV MUJOCO_GL=egl

ARG PIP_EXTRA_INDEX_URL
WORKDIR /metarl
COPY . .
RUN pip install --no-cache-dir .

ENTRYPOINT ["metarl"]
