"""What did the network look at?
=============================

Grad-CAM (Selvaraju et al., 2017) and guided backpropagation (Springenberg et al., 2015), both by
hooks, for a small network that tells a bright square in the left half from one in the right half.
"""

import tinyconv as tc
from tinyconv import nn, optim
from tinyconv.nn import functional as F

tc.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
                      nn.Conv2d(8, 8, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(512, 2))
images, labels = tc.randn(128, 1, 16, 16) * 0.2, tc.randint(2, (128,))
for i in range(128):
    images[i, 0, 6:10, 3 + 8 * labels[i].item() : 7 + 8 * labels[i].item()] = 1.0
optimizer = optim.Adam(model.parameters(), lr=0.01)
for _ in range(30):
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()

seen = {}
last = model[4]
last.register_forward_hook(lambda module, args, output: seen.update(maps=output))
last.register_full_backward_hook(lambda module, gi, go: seen.update(gradient=go[0]))
image, label = images[:1], labels[0].item()
model(image)[0, label].backward()
weights = seen["gradient"].mean((2, 3), keepdim=True)
cam = F.relu((weights * seen["maps"]).sum(1)).detach()[0]
row, column = divmod(cam.argmax().item(), 8)
print(f"Grad-CAM: the square is in half {label}, the map is largest in half {column // 4}")

for module in model.modules():  # guided: nothing negative comes back through a ReLU
    if isinstance(module, nn.ReLU):
        module.register_full_backward_hook(lambda module, gi, go: (F.relu(gi[0]),))
model(image.requires_grad_())[0, label].backward()
half = image.grad.abs()[0, 0].sum(0).reshape(2, 8).sum(1)
print(f"guided backpropagation: {100 * (half[label] / half.sum()).item():.0f} % in half {label}")
