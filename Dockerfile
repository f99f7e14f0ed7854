# The suite with its pinned packages; mount data and runs:
#   docker run --gpus all --shm-size 8g -v $PWD/data:/data -v $PWD/runs:/out/runs jdcsuite +experiment=fllic data.root=/data
FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends git g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /suite
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY conf conf
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt .
WORKDIR /out
ENTRYPOINT ["python", "-m", "jdcsuite"]
CMD ["--help"]
