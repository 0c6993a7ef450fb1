import torch

from mapolab.data.draw import sample_posterior
from mapolab.diffusion.noise import draw_noise
from mapolab.streams import Stream


def test_a_sample_of_the_posterior_is_its_mean_and_so_many_deviations_of_noise():
    """Each side has noise of its own, and each position, whatever stands beside it."""
    mean, std = torch.tensor([1.0, -2.0]).view(2, 1, 1, 1).expand(2, 4, 2, 2), torch.full((2, 4, 2, 2), 0.5)
    for side, stream in (("chosen", Stream.POSTERIOR_CHOSEN), ("rejected", Stream.POSTERIOR_REJECTED)):
        found = sample_posterior(mean, std, 3, [7, 9], side)
        for row, position in enumerate([7, 9]):
            expected = mean[row] + 0.5 * draw_noise(3, [position], (4, 2, 2), stream)[0]
            torch.testing.assert_close(found[row], expected, rtol=0, atol=0)
