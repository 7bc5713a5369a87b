// Detects objects in an image with a file of `densevit export`, and draws their boxes.
//
//     densevit export runs/detr_swin --resize --postprocess --out model.onnx
//     cmake -B build -D ONNXRUNTIME_ROOT=/opt/onnxruntime && cmake --build build
//     magick ../coffee.jpg -auto-orient coffee.ppm    # PPM only, to need no other library
//     build/detect model.onnx coffee.ppm drawn.ppm
//
// Prints a line per detected object: class, score and box (left, top, right, bottom) in pixels of the image, separated
// by tabs.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
    int64_t width = 0, height = 0;
    std::vector<uint8_t> pixels;  // rows of pixels, RGB
};

Image read_image(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    Image image;
    int levels = 0;
    file >> kind >> image.width >> image.height >> levels;
    if (!file || kind != "P6" || levels != 255 || image.width < 1 || image.height < 1)
        throw std::runtime_error(path + ": is not a PPM image (P6) of 8 bits per colour.");
    file.get();  // the end of the header's last line
    image.pixels.resize(3 * image.width * image.height);
    file.read(reinterpret_cast<char*>(image.pixels.data()), static_cast<std::streamsize>(image.pixels.size()));
    if (!file) throw std::runtime_error(path + ": the image is not complete.");
    return image;
}

void write_image(const Image& image, const std::string& path) {
    std::ofstream file(path, std::ios::binary);
    file << "P6\n" << image.width << ' ' << image.height << "\n255\n";
    file.write(reinterpret_cast<const char*>(image.pixels.data()), static_cast<std::streamsize>(image.pixels.size()));
}

// The lines of an entry of the file's metadata: "classes/HEAD", names in the order of the labels, or "thresholds", the
// lowest score of objects for each head.
std::vector<std::string> metadata(const Ort::Session& session, const std::string& key) {
    Ort::AllocatorWithDefaultOptions allocator;
    auto text = session.GetModelMetadata().LookupCustomMetadataMapAllocated(key.c_str(), allocator);
    std::vector<std::string> entries;
    std::istringstream lines(text ? text.get() : "");
    for (std::string line; std::getline(lines, line);) entries.push_back(line);
    return entries;
}

// The first head with classes, in the metadata of the file.
std::string head_name(const Ort::Session& session) {
    Ort::AllocatorWithDefaultOptions allocator;
    const std::string form = "classes/";
    for (const auto& key : session.GetModelMetadata().GetCustomMetadataMapKeysAllocated(allocator)) {
        const std::string name = key.get();
        if (name.compare(0, form.size(), form) == 0) return name.substr(form.size());
    }
    throw std::runtime_error("The file has no classes: export it with --postprocess, from a model that detects.");
}

void draw_box(Image& image, const float* box) {
    const auto inside = [](float value, int64_t side) {
        return std::clamp<int64_t>(std::lround(value), 0, side - 1);
    };
    const int64_t left = inside(box[0], image.width), right = inside(box[2], image.width);
    const int64_t top = inside(box[1], image.height), bottom = inside(box[3], image.height);
    const auto paint = [&](int64_t x, int64_t y) {
        uint8_t* pixel = &image.pixels[3 * (y * image.width + x)];
        pixel[0] = 230, pixel[1] = 25, pixel[2] = 75;
    };
    for (int64_t x = left; x <= right; x++) paint(x, top), paint(x, bottom);
    for (int64_t y = top; y <= bottom; y++) paint(left, y), paint(right, y);
}

int main(int argc, char** argv) try {
    if (argc != 4) {
        std::cerr << "detect MODEL.onnx IMAGE.ppm DRAWN.ppm\n";
        return 2;
    }
    Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "detect");
    const std::string model = argv[1];
    Ort::Session session(env, std::basic_string<ORTCHAR_T>(model.begin(), model.end()).c_str(), Ort::SessionOptions{});
    Image image = read_image(argv[2]);

    // The input: uint8, (1, 3, height, width), one plane per colour.
    const int64_t area = image.width * image.height;
    std::vector<uint8_t> planes(3 * area);
    for (int64_t i = 0; i < area; i++)
        for (int colour = 0; colour < 3; colour++) planes[colour * area + i] = image.pixels[3 * i + colour];
    const std::vector<int64_t> shape{1, 3, image.height, image.width};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<float> thresholds;
    for (const auto& score : metadata(session, "thresholds")) thresholds.push_back(std::stof(score));
    const int64_t heads = thresholds.size();
    const Ort::Value values[] = {
        Ort::Value::CreateTensor<uint8_t>(memory, planes.data(), planes.size(), shape.data(), 4),
        Ort::Value::CreateTensor<float>(memory, thresholds.data(), thresholds.size(), &heads, 1)};

    // Files with several heads have outputs HEAD/boxes, others boxes.
    const std::string head = head_name(session);
    Ort::AllocatorWithDefaultOptions allocator;
    std::string prefix;
    for (size_t i = 0; i < session.GetOutputCount(); i++)
        if (session.GetOutputNameAllocated(i, allocator).get() == head + "/boxes") prefix = head + "/";
    const std::string names[] = {prefix + "boxes", prefix + "scores", prefix + "labels"};
    const char* inputs[] = {"images", "thresholds"};
    const char* outputs[] = {names[0].c_str(), names[1].c_str(), names[2].c_str()};
    const auto found = session.Run(Ort::RunOptions{nullptr}, inputs, values, 2, outputs, 3);

    // The objects, best first. The file removes duplicates, and objects with scores below the threshold of their head.
    const auto classes = metadata(session, "classes/" + head);
    const float* boxes = found[0].GetTensorData<float>();
    const float* scores = found[1].GetTensorData<float>();
    const int64_t* labels = found[2].GetTensorData<int64_t>();
    const size_t count = found[1].GetTensorTypeAndShapeInfo().GetElementCount();
    for (size_t i = 0; i < count; i++) {
        const float* box = boxes + 4 * i;
        std::printf("%s\t%.6f\t%.3f\t%.3f\t%.3f\t%.3f\n", classes.at(labels[i]).c_str(), scores[i], box[0], box[1],
                    box[2], box[3]);
        draw_box(image, box);
    }
    write_image(image, argv[3]);
    return 0;
} catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
}
