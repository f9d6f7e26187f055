# A box with an NVIDIA driver of version 580 or newer and the NVIDIA Container Toolkit:
#     docker build -t packnet . && docker run --gpus all -it -v "$PWD/checkpoints:/packnet/checkpoints" packnet
# The CUDA toolkit and cuDNN 9 are the image's. Without --gpus it runs on the CPU.
FROM nvidia/cuda:13.0.2-cudnn-devel-ubuntu24.04
RUN apt-get update && apt-get install -y --no-install-recommends g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /packnet
RUN python3 -m venv /venv
ENV PATH="/venv/bin:$PATH"
COPY requirements.txt requirements-numpy2.txt ./
RUN pip install --no-cache-dir -r requirements.txt \
    && pip install --no-cache-dir --no-deps jittor==1.3.11.0
COPY . .
CMD ["bash", "-c", "python -m toolchain --check && exec bash"]
