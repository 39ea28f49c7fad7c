# The commands in a container. Build and run:
#     docker build -t peft-unlearn .
#     docker run --rm --gpus all -v "$PWD:/work" -v "$HOME/.cache/huggingface:/cache" peft-unlearn train my-recipe.yaml
# `ask` listens inside the container alone; give it the network of the host: docker run --network host …
FROM python:3.11-slim

WORKDIR /src
COPY constraints.txt ./
# torch first and by itself, so that a change of the package does not fetch it again; as it comes it has CUDA.
# `--build-arg TORCH="torch --index-url …"` chooses another build, such as the smaller one for a CPU.
ARG TORCH=torch
RUN pip install --no-cache-dir -c constraints.txt ${TORCH}
COPY pyproject.toml README.md LICENSE ./
COPY peft_unlearn peft_unlearn
RUN pip install --no-cache-dir -c constraints.txt ".[ask,completion]"

ENV HF_HOME=/cache
RUN useradd --create-home user && mkdir /work /cache && chown user /work /cache
USER user
WORKDIR /work
ENTRYPOINT ["peft-unlearn"]
CMD ["--help"]
